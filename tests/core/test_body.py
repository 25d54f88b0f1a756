"""The bytes of a request are valid JSON whatever a prompt or a model name holds."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core.body import body_template, chat_body, mime_type, with_logprobs
from client.core.plan import DEFAULT_PROMPT, Workload

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4


@given(prompt=st.text(), system=st.none() | st.text(), model=st.text(min_size=1), picture=st.binary(max_size=500))
def test_a_body_is_json_and_says_what_was_asked(prompt: str, system: str | None, model: str, picture: bytes) -> None:
    workload = Workload(prompt=prompt, system_prompt=system, max_tokens=20, temperature=0.5)
    body = json.loads(chat_body(workload, model, b"\xff\xd8\xff" + picture, seed=7))
    assert body["model"] == model
    assert (body["max_tokens"], body["temperature"], body["seed"], body["stream"]) == (20, 0.5, 7, True)
    assert body["stream_options"] == {"include_usage": True}
    *before, user = body["messages"]
    assert before == ([] if system is None else [{"role": "system", "content": system}])
    image, text = user["content"]
    assert text == {"type": "text", "text": prompt}
    head, _, encoded = image["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(encoded, validate=True) == b"\xff\xd8\xff" + picture


def test_only_what_was_asked_for_is_sent() -> None:
    body = json.loads(chat_body(Workload(), "m", JPEG))
    assert set(body) == {"model", "messages", "stream", "stream_options", "max_tokens", "temperature"}
    assert body["messages"][0]["content"][1]["text"] == DEFAULT_PROMPT
    more = json.loads(chat_body(Workload(ignore_eos=True), "m", JPEG, continuous_usage=True))
    assert more["ignore_eos"] is True
    assert more["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_a_body_has_no_line_break_and_two_targets_differ_in_the_model_alone() -> None:
    one, two = (chat_body(Workload(), model, JPEG) for model in ("bf16", "fp8!"))
    assert b"\n" not in one
    assert one.replace(b'"bf16"', b'"fp8!"') == two
    template = body_template(Workload(), "bf16")
    assert template.fill(base64.b64encode(JPEG)) == one


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (JPEG, "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF89a", "image/gif"),
        (b"RIFF0000WEBP", "image/webp"),
    ],
)
def test_the_mime_type_comes_from_the_bytes(data: bytes, kind: str) -> None:
    assert mime_type(data) == kind
    assert (
        f"data:{kind};base64,"
        in json.loads(chat_body(Workload(), "m", data))["messages"][0]["content"][0]["image_url"]["url"]
    )


def test_other_bytes_have_no_mime_type() -> None:
    with pytest.raises(ValueError, match="neither"):
        mime_type(b"BM123456")


def test_asking_for_log_probabilities_changes_nothing_else() -> None:
    plain = chat_body(Workload(prompt='{"logprobs": 1}'), "m", JPEG)
    asked = json.loads(with_logprobs(plain, 7))
    assert (asked.pop("logprobs"), asked.pop("top_logprobs"), asked.pop("return_tokens_as_token_ids")) == (
        True,
        7,
        True,
    )
    assert asked == json.loads(plain)
