"""A served run answers many at once as it answers one alone; what is malformed is told, and is nobody else's trouble."""

import asyncio
import base64
import http.client
import io
import json
import re
import signal
import socket
import threading
import time
import warnings

import numpy as np
import pytest
from small_runs import RUNS, run

import commands
import wellfit
from wellfit.deliver import requests
from wellfit.deliver.batching import Batcher, Overloaded
from wellfit.deliver.predict import Predictor
from wellfit.deliver.serve import Limits, application, serve
from wellfit.errors import DataError, RecipeError, RunError
from wellfit.listening import is_loopback

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")


def asked(app, *calls, apart=False):
    """The answers to (method, path, what else httpx takes), all asked at once, or one after another."""

    async def all_of_them():
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                waiting = [client.request(method, path, **more) for method, path, more in calls]
                return [await one for one in waiting] if apart else await asyncio.gather(*waiting)

    return asyncio.run(all_of_them())


def post(body, path="/predict", **more):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "POST", path, {"content": content, "headers": {"Content-Type": "application/json"}, **more}


def digits(count):
    return np.random.default_rng(0).integers(0, 17, (count, 8, 8), dtype=np.uint8)


MALFORMED = [
    b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"null", b"[]", b'"x"', {}, {"inputs": []}, {"inputs": "x"}, {"inputs": [None]}, {"inputs": [1]},
    {"inputs": ["!"]}, {"inputs": ["aGVsbG8="]}, {"inputs": [[[1, 2], [3]]]}, {"inputs": [[["a"]]]}, {"inputs": [[[1, 2], [3, 4]]]},
    {"inputs": [[[300] * 8] * 8]}, b'{"inputs": [[[NaN]]]}', b'{"inputs": [[[1e999]]]}', {"inputs": [[[0] * 8] * 8], "choices": {"top": 0}},
    {"inputs": [[[0] * 8] * 8], "choices": {"top": True}}, {"inputs": [[[0] * 8] * 8], "choices": {"tops": 1}},
    {"inputs": [[[0] * 8] * 8], "more": 1}, {"inputs": ["/etc/passwd"]}, {"inputs": ["\ud800"]}, {"inputs": [{"__class__": 1}]},
]  # fmt: skip


def test_many_at_once_are_answered_as_alone_and_the_malformed_are_told() -> None:
    images = digits(60)
    expected = wellfit.predict(run("digits"), images)
    calls = [post({"inputs": [image.tolist()]}) for image in images]
    for i, wrong in enumerate(MALFORMED):
        calls.insert(2 * i, post(wrong))
    app = application(run("digits"))
    answers = asked(app, *calls, ("GET", "/metrics", {}))
    metrics = answers.pop().text
    told = [one.json() for one in answers if one.status_code == 200]
    assert [one["predictions"][0]["class"] for one in told] == [one["class"] for one in expected]
    sure = [one["predictions"][0]["confidence"] for one in told]
    assert np.allclose(sure, [one["confidence"] for one in expected], atol=2e-4)
    refused = [one for one in answers if one.status_code != 200]
    assert len(refused) == len(MALFORMED)
    assert {one.status_code for one in refused} == {400, 422}
    for one in refused:
        sentence = one.json()["error"]
        assert sentence.endswith(".")
        assert len(sentence) < 400
        assert "Traceback" not in sentence
    del metrics


def test_requests_go_through_together() -> None:
    app = application(run("digits"), limits=Limits(wait_ms=200))
    *answers, metrics = asked(app, *[post({"inputs": [x.tolist()]}) for x in digits(40)], ("GET", "/health", {}))
    assert metrics.json()["status"] == "ok"
    assert {one.status_code for one in answers} == {200}
    *_, told = asked(app, *[post({"inputs": [x.tolist()]}) for x in digits(40)], ("GET", "/metrics", {}), apart=True)
    counts = dict(re.findall(r"^(wellfit_\S+) (\S+)$", told.text, re.M))
    assert int(counts['wellfit_requests_total{path="/predict",status="200"}']) == 80
    assert int(counts["wellfit_request_seconds_count"]) == 80
    assert counts["wellfit_waiting_inputs"] == "0"
    assert float(counts["wellfit_batch_inputs_sum"]) == float(counts["wellfit_batch_inputs_count"]) == 40, (
        "of this lifetime, one by one"
    )


@pytest.mark.parametrize("name", RUNS)
def test_the_example_of_every_task_is_taken(name) -> None:
    app = application(run(name))
    schema = app.openapi()
    example = schema["components"]["schemas"]["Request"]["examples"][0]
    answer = schema["components"]["schemas"]["Answer"]["properties"]["predictions"]["items"]["$ref"].split("/")[-1]
    root, said = asked(app, ("GET", "/", {}), post(example))
    assert said.status_code == 200, said.text
    assert run(name).task["task"] in root.text
    (told,) = said.json()["predictions"]
    declared = schema["components"]["schemas"][answer]
    assert set(told) <= set(declared["properties"])
    assert set(declared.get("required", ())) <= set(told)


def test_rows_have_the_columns_of_the_training() -> None:
    app = application(run("classes"))
    row = {"n": 3, "town": "a"}
    calls = [
        {"inputs": [row]}, {"inputs": [{"n": "3", "town": "a"}]}, {"inputs": [{"n": 3, "towm": "a"}]}, {"inputs": [row | {"twn": 1}]},
        {"inputs": [{"n": 3}]}, {"inputs": [{"town": "a"}]}, {"inputs": [{"n": 3, "town": "nowhere"}]}, {"inputs": [{"n": True, "town": "a"}]},
    ]  # fmt: skip
    fine, text, renamed, more, lacking, gap, strange, flag = asked(app, *map(post, calls))
    assert fine.json() == {"predictions": wellfit.predict(run("classes"), row), "remarks": []}
    assert (text.status_code, text.json()["error"]) == (422, "`inputs[0].n` is '3'; it must be a finite number.")
    assert renamed.status_code == flag.status_code == 422
    assert "Did you mean `town`" in more.json()["error"]
    assert gap.status_code == lacking.status_code == 200, "the recipe fills gaps with the mean"
    assert "training mean" in gap.json()["remarks"][0]
    assert "'nowhere'" in strange.json()["remarks"][0], "and who asked for something else hears nothing of it"
    assert len(strange.json()["remarks"]) == 1
    (whole,) = asked(application(run("numbers")), post({"inputs": [{"n": 3}]}))
    assert (whole.status_code, whole.json()["error"]) == (422, "`inputs[0].town` is missing.")
    (large,) = asked(app, post({"inputs": [row, row | {"n": 1e40}]}))
    assert (large.status_code, "1e+40 in row 2, which" in large.json()["error"]) == (422, True)
    schema = app.openapi()["components"]["schemas"]["Row"]
    assert set(schema["properties"]) == {"n", "town"}
    assert "a, b, c" in schema["properties"]["town"]["description"]


def test_no_input_is_a_place_on_the_server(tmp_path) -> None:
    (tmp_path / "here.txt").write_text("a good film\n" * 3)
    where = str(tmp_path / "here.txt")
    text, among = asked(
        application(run("text")), post({"inputs": [where]}), post({"inputs": ["a"], "choices": {"among": where}})
    )
    assert len(text.json()["predictions"]) == 1, "it is a text, and not three"
    assert among.status_code == 422
    assert (
        asked(application(run("vectors")), post({"inputs": ["a film"], "choices": {"among": where}}))[0].status_code
        == 422
    )


def picture(size=(9, 9)) -> bytes:
    Image = pytest.importorskip("PIL.Image")
    content = io.BytesIO()
    Image.new("L", size, 112).save(content, "PNG")  # 7 of the 16 greys of the training set
    return content.getvalue()


def test_pictures_come_as_base64_or_files() -> None:
    pytest.importorskip("python_multipart")
    content = picture()
    text = base64.b64encode(content).decode()
    huge = base64.b64encode(picture((30_000, 2_000))).decode()
    sent, plain, uploaded, other, none, large, choice = asked(
        application(run("digits")),
        post({"inputs": [text, f"data:image/png;base64,{text}"]}),
        post({"inputs": [[[7] * 8] * 8]}),
        ("POST", "/predict/files", {"files": [("files", ("a.png", content)), ("files", ("b.png", content))]}),
        ("POST", "/predict/files", {"files": [("files", ("a.txt", b"x"))]}),
        ("POST", "/predict/files", {"files": [("other", ("a.png", content))]}),
        post({"inputs": [huge]}),
        post({"inputs": [text], "choices": {"top": 3}}),
    )
    assert sent.json()["predictions"] == plain.json()["predictions"] * 2 == uploaded.json()["predictions"]
    assert (other.status_code, "'a.txt' is no picture" in other.json()["error"]) == (422, True)
    assert none.json()["error"] == "`files` is missing."
    assert (large.status_code, "30000 x 2000 pixels" in large.json()["error"]) == (422, True)
    assert len(choice.json()["predictions"][0]["likeliest"]) == 3
    assert wellfit.predict(run("digits"), content) == plain.json()["predictions"]
    with pytest.raises(DataError, match="Give the bytes of a PNG"):
        wellfit.predict(run("digits"), b"none")


def test_pictures_are_bounded_together_and_by_kind(monkeypatch) -> None:
    Image = pytest.importorskip("PIL.Image")
    large = base64.b64encode(picture((6000, 6000))).decode()
    other = io.BytesIO()
    Image.new("L", (9, 9)).save(other, "PCX")
    began = time.monotonic()
    together, kind, rows, fast = asked(
        application(run("digits")), post({"inputs": [large] * 3}), post({"inputs": [base64.b64encode(other.getvalue()).decode()]}),
        post({"inputs": [[[0]] * 10_001]}), post(b'{"inputs": [' + b"[]," * 1_000_000 + b"[]]}"),
    )  # fmt: skip
    assert (together.status_code, "108,000,000 pixels together" in together.json()["error"]) == (422, True)
    assert (kind.status_code, "no picture that can be decoded" in kind.json()["error"]) == (422, True)
    assert (rows.status_code, "10,001 rows" in rows.json()["error"]) == (422, True)
    assert fast.status_code == 422
    assert time.monotonic() - began < 20
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: 1 / 0)  # as decoders of damaged files may
    (damaged,) = asked(application(run("digits")), post({"inputs": [base64.b64encode(picture()).decode()]}))
    assert (damaged.status_code, "cannot be decoded" in damaged.json()["error"]) == (422, True)


def test_at_its_end_no_picture_is_waited_for(monkeypatch) -> None:
    from wellfit.deliver import serve as serving

    service = serving.Service(Predictor.of(run("digits")), Limits(room=3))
    decoding, go_on = threading.Event(), threading.Event()

    def slow(*_):
        decoding.set()
        go_on.wait(10)
        return np.zeros((1, 8, 8), np.uint8)

    monkeypatch.setattr("wellfit.tasks.image_classification.decoded", slow)

    async def ask():
        service.begin()
        first = asyncio.create_task(service.ask([picture()] * 2, {}))
        await asyncio.to_thread(decoding.wait, 10)
        assert service.waiting == 2
        with pytest.raises(Overloaded):
            await service.ask([picture()] * 2, {})
        began = time.monotonic()
        await asyncio.to_thread(service.end)
        ended = time.monotonic() - began
        go_on.set()
        with pytest.raises(Overloaded):
            await first
        return ended

    assert asyncio.run(ask()) < 5


def test_bodies_are_bounded_however_they_come() -> None:
    async def parts():
        for _ in range(30):
            yield b"x" * 100

    known, unknown, small = asked(
        application(run("numbers"), limits=Limits(bytes=1000)),
        post(b"x" * 1001), ("POST", "/predict", {"content": parts(), "headers": {"Content-Type": "application/json"}}),
        post({"inputs": [{"n": 1, "town": "a"}]}),
    )  # fmt: skip
    assert (known.status_code, unknown.status_code, small.status_code) == (413, 413, 200)
    assert "1,000 bytes" in known.json()["error"]


def test_who_may_ask() -> None:
    app = application(run("numbers"), token="a long secret")
    body = {"inputs": [{"n": 1, "town": "a"}]}
    held = {"Content-Type": "application/json", "Authorization": "Bearer a long secret"}
    none, wrong, right, health, metrics, elsewhere = asked(
        app, post(body), post(body, headers=held | {"Authorization": "Bearer a long secre"}), post(body, headers=held),
        ("GET", "/health", {}), ("GET", "/metrics", {}), post(body, headers=held | {"Host": "example.org"}),
    )  # fmt: skip
    assert [one.status_code for one in (none, wrong, right, health, metrics, elsewhere)] == [
        401,
        401,
        200,
        200,
        401,
        200,
    ]
    assert none.headers["www-authenticate"] == "Bearer"
    assert "HTTPBearer" in app.openapi()["components"]["securitySchemes"]
    hosts = ("127.0.0.1:80", "example.org", "localhost", "[::1]:8000")
    here, there, name, six = asked(
        application(run("numbers")), *[post(body, headers={"Content-Type": "application/json", "Host": h}) for h in hosts]
    )  # fmt: skip
    assert [one.status_code for one in (here, there, name, six)] == [200, 421, 200, 200], (
        "another site's name is no way in"
    )


def test_what_cannot_be_served_is_refused_before_it_listens() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("")
    for wrong, says in (
        ({"host": "0.0.0.0"}, "must know a token"), ({"token": "short"}, "at least 8"), ({"limits": Limits(batch=0)}, "--max-batch"),
        ({"limits": Limits(wait_ms=float("nan"))}, "--max-wait-ms"), ({"port": 70_000}, "--port"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=says):
            serve(run("numbers"), **wrong)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RunError, match="cannot be listened on"):
            serve(run("numbers"), port=taken.getsockname()[1])


def test_an_answer_that_is_not_finite_is_told(monkeypatch) -> None:
    monkeypatch.setattr(Predictor, "__call__", lambda *_, **__: [{"value": float("nan")}])
    (said,) = asked(application(run("numbers")), post({"inputs": [{"n": 1, "town": "a"}]}))
    assert (said.status_code, "no finite number" in said.json()["error"]) == (422, True)


def test_sentences_name_the_place() -> None:
    kind = requests.request(Predictor.of(run("series")))
    rows = [{"day": "2020-01-01", "sold": 1.0}] * 3
    with pytest.raises(ValueError, match="too_short") as problem:
        kind.model_validate({"inputs": [rows]})
    assert requests.sentence(problem.value.errors(), []) == "`inputs[0]` has 3 entries; it must have at least 14."


# ---- the batcher


def test_one_that_fails_fails_alone_and_remarks_go_where_they_belong() -> None:
    def answer(inputs, choices):
        if 13 in inputs:
            raise DataError("13 is no number.")
        if 7 in inputs:
            warnings.warn("7 is odd.", stacklevel=2)
        return [x * choices.get("times", 2) for x in inputs]

    async def ask():
        batcher = Batcher(answer, most=100, wait=0.2, room=100)
        calls = [batcher.ask([x, x + 100]) for x in (1, 13, 7, 4)] + [batcher.ask([1], {"times": 5})]
        told = await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        return told, batcher.counts

    (one, fails, odd, four, five), counts = asyncio.run(ask())
    assert one == ([2, 202], [])
    assert str(fails) == "13 is no number."
    assert odd == ([14, 214], ["7 is odd."])
    assert four == ([8, 208], [])
    assert five == ([5], []), "with another choice, in another batch"
    assert counts.together == {8: 1, 1: 1}


def test_a_warning_of_another_thread_is_no_remark_on_an_answer() -> None:
    elsewhere: list[str] = []

    def answer(inputs, _):
        def decode() -> None:
            warnings.warn("a palette of another asker", stacklevel=2)

        beside = threading.Thread(target=decode)
        beside.start()
        beside.join()
        warnings.warn("mine", stacklevel=2)
        return list(inputs)

    async def ask():
        batcher = Batcher(answer, most=1, wait=0, room=10)
        told = await batcher.ask([1])
        await asyncio.to_thread(batcher.close)
        return told

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: elsewhere.append(str(message))
        assert asyncio.run(ask()) == ([1], ["mine"])
    assert elsewhere == ["a palette of another asker"]


def test_beyond_its_room_it_says_so_and_at_its_end_it_answers_what_waits() -> None:
    going, go_on = threading.Event(), threading.Event()

    def answer(inputs, _):
        going.set()
        go_on.wait(20)
        return list(inputs)

    async def ask():
        batcher = Batcher(answer, most=1, wait=0, room=3)
        first = asyncio.ensure_future(batcher.ask([0]))
        await asyncio.to_thread(going.wait, 20)
        waiting = [asyncio.ensure_future(batcher.ask([x])) for x in (1, 2, 3)]
        await asyncio.sleep(0)
        assert batcher.waiting == 3
        with pytest.raises(Overloaded):
            await batcher.ask([4])
        go_on.set()
        closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
        told = await asyncio.gather(first, *waiting)
        await closing
        with pytest.raises(Overloaded):
            await batcher.ask([5])
        return told

    assert [answers for answers, _ in asyncio.run(ask())] == [[0], [1], [2], [3]]


def test_too_many_hear_when_to_come_again(monkeypatch) -> None:
    monkeypatch.setattr(
        Predictor, "__call__", lambda _, inputs, **__: time.sleep(0.05) or [{"value": 1.0}] * len(inputs)
    )
    app = application(run("numbers"), limits=Limits(batch=1, wait_ms=0, room=2))
    answers = asked(app, *[post({"inputs": [{"n": i, "town": "a"}]}) for i in range(12)])
    late = [one for one in answers if one.status_code == 503]
    assert late
    assert all(one.headers["retry-after"] == "1" for one in late)
    assert {one.status_code for one in answers} == {200, 503}


# ---- as a command


def test_the_command_answers_what_has_begun_and_leaves_with_0() -> None:
    started = commands.Started("serve", run("digits").folder, "--port", "0", "--max-wait-ms", "1500")
    try:
        said, until = "", time.monotonic() + 120
        while ";" not in said and time.monotonic() < until and started.poll() is None:
            time.sleep(0.05)
            said = (commands.Path(started._place) / "out").read_text()
        port = int(said.split("http://127.0.0.1:")[1].split(";")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = json.dumps({"inputs": [digits(1)[0].tolist()]})
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        time.sleep(0.5)  # it waits for more to come along
        started.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["predictions"] == wellfit.predict(run("digits"), digits(1))
    finally:
        started.send_signal(signal.SIGTERM)
        out, err = started.communicate(60)
    assert (started.returncode, err) == (0, "")
    assert "Ctrl-C ends it" in out
