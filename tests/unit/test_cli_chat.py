"""`hobbit chat` over a scripted model: turns, slash commands, Ctrl-C, a full context, failures."""

import io
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from scripted_llama import ScriptedLlama, Step

from hobbit_py import cli
from hobbit_py.cli import common
from hobbit_py.cli.chat import Chat
from hobbit_py.cli.conversation import Conversation, Turn
from hobbit_py.errors import ReadError, UsageError

READ_ERROR = ReadError("Reading 'm.gguf' at offset 7 failed: Input/output error.", 5, "m.gguf")


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class Lines:
    """Messages of a person at a terminal."""

    interactive = True

    def __init__(self, *messages: str) -> None:
        self._messages: Iterator[str] = iter(messages)

    def read(self) -> str | None:
        return next(self._messages, None)


def conversation(*answers: Sequence[Step], n_ctx: int = 512, **options: Any) -> Conversation:
    return Conversation(ScriptedLlama(*answers, n_ctx=n_ctx), **options)  # type: ignore[arg-type]


def prompts(talk: Conversation) -> list[str]:
    llama: Any = talk.llama
    return list(llama.prompts)


def test_answers_stream_and_turns_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation(["Hi."], ["Fine."], system="Be brief.")
    Chat(talk, Lines("Hello", "How are you?")).run()
    assert capsys.readouterr().out == "Hi.\nFine.\n"
    assert talk.turns == [Turn("Hello", "Hi."), Turn("How are you?", "Fine.")]
    assert prompts(talk)[1] == "[system]Be brief.[user]Hello[assistant]Hi.[user]How are you?"


def test_summary_after_each_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Chat(conversation(["Hi."]), Lines("Hello")).run()
    # Three characters and the end token.
    assert "4 tokens, " in (shown := capsys.readouterr().err)
    assert " tok/s, 75% hits, 0.00 GB read" in shown


def test_summary_of_a_dense_model_has_no_hits(capsys: pytest.CaptureFixture[str]) -> None:
    llama: Any = ScriptedLlama(["Hi."], precision="dense")
    Chat(Conversation(llama), Lines("Hello")).run()
    assert "hits" not in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_keeps_what_was_shown(capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation(["A long ", press_ctrl_c, "story"], ["Yes."])
    Chat(talk, Lines("Tell", "More?")).run()
    shown = capsys.readouterr()
    assert shown.out == "A long \nYes.\n"
    assert "Stopped." in shown.err
    assert talk.turns == [Turn("Tell", "A long "), Turn("More?", "Yes.")]


def test_ctrl_c_before_the_first_token_keeps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation([press_ctrl_c, "never"], ["Yes."])
    Chat(talk, Lines("Tell", "More?")).run()
    assert capsys.readouterr().out == "\nYes.\n"
    assert talk.turns == [Turn("More?", "Yes.")]


def test_ctrl_c_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    conversation(["A", press_ctrl_c, "B"]).ask("x", lambda _text: None, lambda _text: None)
    assert signal.getsignal(signal.SIGINT) is before


def test_failed_answer_leaves_the_chat_alive(capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation(["Half", READ_ERROR], ["Whole."])
    Chat(talk, Lines("One", "Two")).run()
    shown = capsys.readouterr()
    assert "hobbit: Reading 'm.gguf' at offset 7 failed: Input/output error." in shown.err
    assert shown.out.endswith("Whole.\n")
    assert talk.turns == [Turn("Two", "Whole.")]


def test_failed_answer_ends_a_scripted_chat() -> None:
    lines = Lines("One", "Two")
    lines.interactive = False
    with pytest.raises(ReadError):
        Chat(conversation([READ_ERROR], ["never"]), lines).run()


def test_decode_error_of_llama_cpp_becomes_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Chat(conversation([RuntimeError("llama_decode returned -3")]), Lines("One")).run()
    assert "hobbit: The answer failed: llama_decode returned -3." in capsys.readouterr().err


def test_oldest_turns_make_room(capsys: pytest.CaptureFixture[str]) -> None:
    # 16 bytes of system message and about 50 a turn: the fourth question does not leave a quarter for its answer.
    talk = conversation(*[["a" * 20]] * 4, n_ctx=256, system="Be nice.")
    Chat(talk, Lines(*(str(idx) * 20 for idx in range(4)))).run()
    shown = capsys.readouterr()
    assert shown.err.count("The oldest 2 turns were dropped") == 1
    assert [turn.question[0] for turn in talk.turns] == ["2", "3"]
    assert prompts(talk)[-1].startswith("[system]Be nice.[user]2222")
    assert all(len(prompt) <= 256 - 64 for prompt in prompts(talk))


def test_message_longer_than_the_context(capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation(["Hi."], ["Still here."], n_ctx=128)
    Chat(talk, Lines("Hello", "x" * 200, "There?")).run()
    shown = capsys.readouterr()
    assert "hobbit: The message makes a prompt of 206 tokens and the context holds 128; shorten it" in shown.err
    assert shown.out == "Hi.\nStill here.\n"


def test_answer_that_fills_the_context_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Chat(conversation(["y" * 100], n_ctx=64), Lines("Hello")).run()
    assert "the context of 64 tokens is full (--ctx)" in capsys.readouterr().err


def test_answer_that_reaches_max_tokens_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Chat(conversation(["y" * 100], max_tokens=5), Lines("Hello")).run()
    shown = capsys.readouterr()
    assert shown.out == "yyyyy\n"
    assert "reached --max-tokens" in shown.err


def test_template_that_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    Chat(conversation(["ok"], system="refuse"), Lines("Hello")).run()
    assert "hobbit: The chat template of this model refuses the conversation: no such role." in capsys.readouterr().err


def test_reset_forgets_turns_but_not_the_system_message() -> None:
    talk = conversation(["Hi."], ["Who?"], system="Be brief.")
    Chat(talk, Lines("Hello", "/reset", "Me")).run()
    assert prompts(talk)[-1] == "[system]Be brief.[user]Me"


def test_slash_commands(capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation(["never"])
    Chat(talk, Lines("/help", "/stats", "/frob", "", "/exit", "unread")).run()
    shown = capsys.readouterr()
    assert "/reset" in shown.err
    assert "experts resident" in shown.err
    assert "There is no command /frob; /help lists the commands." in shown.err
    assert not shown.out
    assert not prompts(talk)


def test_path_begins_a_message() -> None:
    talk = conversation(["A file."])
    Chat(talk, Lines("/etc/hosts is what?")).run()
    assert prompts(talk) == ["[user]/etc/hosts is what?"]


def test_piped_chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    llama = ScriptedLlama(["One."], ["Two."])
    monkeypatch.setattr(common, "load_llama", lambda _options, **_keywords: llama)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"first \\\nsecond\r\n\n\xff?\n/exit\nunread\n")))
    assert cli.main(["chat"]) == 0
    assert capsys.readouterr().out == "One.\nTwo.\n"
    assert llama.prompts[0] == "[user]first \nsecond"
    assert llama.prompts[1].endswith("[user]\ufffd?")
    assert llama.is_closed


def test_ask_raises_usage_error_for_a_message_that_cannot_fit() -> None:
    with pytest.raises(UsageError):
        conversation(n_ctx=64).ask("x" * 64, lambda _text: None, lambda _text: None)


def test_ctrl_c_outside_of_an_answer_does_not_end_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    talk = conversation(["One."], ["Two."])
    ask, questions = talk.ask, []

    def interrupted_once(question: str, *callbacks: Any) -> Any:
        questions.append(question)
        if len(questions) == 1:
            raise KeyboardInterrupt
        return ask(question, *callbacks)

    talk.ask = interrupted_once  # type: ignore[method-assign]
    Chat(talk, Lines("first", "second")).run()
    shown = capsys.readouterr()
    assert shown.out == "One.\n"
    assert "Stopped." in shown.err
