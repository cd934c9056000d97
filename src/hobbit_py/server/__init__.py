"""`hobbit serve`: one model behind an HTTP API that speaks OpenAI's protocol. Needs the extra [server].

Requests and answers have the types of llama-cpp-python's server. The rest is our own, because that server computes to
the end what a client left behind, waits for clients that read slowly, and trusts them all.
"""
