"""`hobbit serve`: one model behind an HTTP API that speaks OpenAI's protocol. Needs the extra [server].

Requests and answers have the types of llama-cpp-python's server. The rest is our own, because its server computes what
a client left behind, lets clients wait in no order, and trusts them.
"""
