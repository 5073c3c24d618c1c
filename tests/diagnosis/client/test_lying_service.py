"""A service, or someone on the way to it, that lies: each lie ends in one sentence and in no diagnosis."""

import asyncio
import gzip

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.responses import RedirectResponse, Response, StreamingResponse
from wire_service import TOKEN, public_of, refusal, serving

from primia.diagnosis.client.client import Client
from primia.diagnosis.wire import Answer, ModelDescription, decode, encode, sign_identity
from primia.errors import EncryptionError

pytestmark = pytest.mark.system


def refused(small, client, *, match: str) -> str:
    with pytest.raises(EncryptionError, match=match) as caught:
        client.diagnose(small.image)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def about(route: str, lie):
    return lambda name, body, honest: lie(body, honest) if name == route else honest


def test_an_answer_signed_by_another_key_is_refused(small, service, client) -> None:
    client.enrol()
    stranger = Ed25519PrivateKey.generate()
    service.lie = about("predict", lambda body, honest: service.signed_by(stranger, Answer, honest.body))
    refused(small, client, match="answer does not carry the server's signature")


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64])
def test_an_answer_without_a_signature_is_refused(small, service, client, signature) -> None:
    client.enrol()
    service.lie = about("predict", lambda body, honest: Response(honest.body, headers={"primia-signature": signature}))
    refused(small, client, match="answer does not carry the server's signature")


def test_an_answer_with_a_flipped_bit_is_refused(small, service, client) -> None:
    client.enrol()

    def flip(body, honest):
        changed = bytearray(honest.body)
        changed[len(changed) // 2] ^= 1
        return Response(bytes(changed), headers={"primia-signature": honest.headers["primia-signature"]})

    service.lie = about("predict", flip)
    refused(small, client, match="answer does not carry the server's signature")


def test_a_signature_of_another_kind_of_message_is_refused(small, service, client) -> None:
    client.enrol()
    service.lie = about(
        "predict", lambda body, honest: service.signed_by(service.identity, ModelDescription, honest.body)
    )
    refused(small, client, match="answer does not carry the server's signature")


def test_an_old_answer_played_again_is_refused(small, service, client) -> None:
    client.enrol()
    old: list[Response] = []

    def replay(body, honest):
        old.append(honest)
        return old[0]

    service.lie = about("predict", replay)
    assert client.diagnose(small.image).probabilities
    refused(small, client, match="answer is to another question")


def test_an_answer_of_another_model_is_refused(small, service, client) -> None:
    client.enrol()

    def swap(body, honest):
        answer = decode(Answer, honest.body).model_copy(update={"model": "cd" * 32})
        return service.signed_by(service.identity, Answer, encode(answer))

    service.lie = about("predict", swap)
    refused(small, client, match="answer is of another model")


def test_another_clients_answer_does_not_decrypt(small, service, client) -> None:
    client.enrol()

    def swap(body, honest):
        others = small.engine.evaluate([small.fresh], small.keys)
        answer = decode(Answer, honest.body).model_copy(update={"ciphertext": others})
        return service.signed_by(service.identity, Answer, encode(answer))

    service.lie = about("predict", swap)
    refused(small, client, match="does not decrypt to anything with this secret key")


@pytest.mark.parametrize("ciphertext", [b"", b"x" * 100])
def test_an_answer_that_holds_no_ciphertext_is_refused(small, service, client, ciphertext) -> None:
    client.enrol()

    def swap(body, honest):
        answer = decode(Answer, honest.body).model_copy(update={"ciphertext": ciphertext})
        return service.signed_by(service.identity, Answer, encode(answer))

    service.lie = about("predict", swap)
    refused(small, client, match="The encrypted answer is empty, cut off")


@pytest.mark.parametrize("route", ["describe", "predict"])
def test_an_answer_that_never_ends_is_cut_off(small, service, client, route) -> None:
    client.enrol()
    sent = []

    async def forever():
        for _ in range(1 << 14):  # 1 GiB
            sent.append(1)
            await asyncio.sleep(0)  # else the server does not notice that the client went away
            yield bytes(1 << 16)

    service.lie = about(route, lambda body, honest: StreamingResponse(forever()))
    refused(small, client, match="answers with more than the [0-9]+ bytes")
    assert len(sent) < 1 << 10


@pytest.mark.parametrize("route", ["describe", "predict", "enrol"])
def test_a_compressed_answer_is_refused_unread(small, service, client, route) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    service.lie = about(route, lambda body, honest: Response(bomb, headers={"content-encoding": "gzip"}))
    refused(small, client, match="compressed its answer")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("route", ["describe", "predict"])
def test_a_redirect_is_not_followed_and_the_token_not_sent_on(small, service, client, route, status) -> None:
    client.enrol()
    reached = []

    async def elsewhere(scope, receive, send):
        reached.append(scope["path"])
        await Response(b"")(scope, receive, send)

    with serving(elsewhere, lifespan="off") as port:
        service.lie = about(
            route, lambda body, honest: RedirectResponse(f"http://127.0.0.1:{port}/", status_code=status)
        )
        refused(small, client, match=rf"sends elsewhere \({status}\), which is not followed")
    assert reached == []


def test_a_server_with_another_identity_is_refused_loudly_and_sent_nothing(small, service, client) -> None:
    client.enrol()
    service.seen.clear()
    stranger = Ed25519PrivateKey.generate()
    lie = service.description(identity=public_of(stranger)).model_dump_json().encode()
    service.lie = lambda route, body, honest: service.signed_by(stranger, ModelDescription, lie)
    sentence = refused(small, client, match="IS NOT THE ONE THAT WAS PINNED")
    assert service.fingerprint in sentence and public_of(stranger) in sentence
    assert [seen.method for seen in service.seen] == ["GET"]


def test_a_description_that_names_the_pinned_key_but_is_signed_by_another_is_refused(small, service, client) -> None:
    stranger = Ed25519PrivateKey.generate()
    service.lie = lambda route, body, honest: service.signed_by(stranger, ModelDescription, honest.body)
    refused(small, client, match="description of the model does not carry the signature")


def test_a_description_changed_on_the_way_is_refused(small, service, client) -> None:
    service.lie = lambda route, body, honest: Response(
        honest.body.replace(b"unfit for patients", b"fit for all patients"),
        headers={"primia-signature": honest.headers["primia-signature"]},
    )
    refused(small, client, match="description of the model does not carry the signature")


def test_the_description_of_another_model_is_refused(small, service, client) -> None:
    service.lie = lambda route, body, honest: service.described(name="other")
    refused(small, client, match="describes another model than primia-chest")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000, b"<html>hello</html>"])
def test_a_description_that_is_none_is_refused(small, service, client, content) -> None:
    service.lie = lambda route, body, honest: Response(content)
    refused(small, client, match="gave no valid description of a model")


@pytest.mark.parametrize(
    ("packing", "match"),
    [
        ({"channels": 4096, "height": 4096, "width": 4096}, "gave no valid description"),
        ({"channels": 1, "height": 4096, "width": 4096}, "larger than this client encrypts"),
        ({"channels": 1, "height": 64, "width": 64, "stride": 1}, "gave no valid description"),
    ],
)
def test_a_described_packing_that_would_fill_the_memory_is_refused(small, service, client, packing, match) -> None:
    said = small.bundle.specification
    huge = said.model_copy(update={"packing": said.packing.model_copy(update=packing), "pipeline_pixels": 4096})
    service.lie = lambda route, body, honest: service.described(specification=huge)
    refused(small, client, match=match)


def test_a_refusal_cannot_steer_the_terminal_or_fill_it(small, service, client) -> None:
    service.lie = lambda route, body, honest: refusal(403, "\x1b[2J\nNo." + "x" * 5000)
    with pytest.raises(EncryptionError) as caught:
        client.diagnose(small.image)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"", b"{", b'{"detail": 3}', b"[" * 60_000])
def test_a_refusal_without_a_sentence_gets_one(small, service, client, content) -> None:
    service.lie = lambda route, body, honest: Response(content, status_code=500)
    refused(small, client, match=r"refused \(500\): it gave no reason; check the address\.")


def test_keys_filed_under_another_name_are_noticed(service, client) -> None:
    service.lie = about("enrol", lambda body, honest: Response(b'{"keys": "' + b"0" * 64 + b'"}', status_code=201))
    with pytest.raises(EncryptionError, match="filed the evaluation keys under another digest"):
        client.enrol()


def test_keygen_refuses_a_server_that_is_not_the_one_of_the_fingerprint(service, tmp_path) -> None:
    with pytest.raises(EncryptionError, match="IS NOT THE ONE THAT WAS PINNED"):
        Client.keygen(tmp_path / "keys", service.url, token=TOKEN, fingerprint="00" * 32)
    assert list(tmp_path.iterdir()) == []
    client = Client.keygen(tmp_path / "keys", service.url, token=TOKEN, fingerprint=service.fingerprint.upper())
    assert client.fingerprint == service.fingerprint


def test_keygen_refuses_a_description_signed_by_nobody(service, tmp_path) -> None:
    service.lie = lambda route, body, honest: Response(honest.body)
    with pytest.raises(EncryptionError, match="does not carry the signature"):
        Client.keygen(tmp_path / "keys", service.url, token=TOKEN)
    assert list(tmp_path.iterdir()) == []


def test_a_stranger_with_another_identity_never_sees_the_token(small, service, client, tmp_path) -> None:
    stranger = Ed25519PrivateKey.generate()

    def own(nonce: str) -> dict[str, str]:
        return {"identity": public_of(stranger), "signature": sign_identity(stranger, nonce)}

    def pinned_name(nonce: str) -> dict[str, str]:
        return {"identity": service.fingerprint, "signature": sign_identity(stranger, nonce)}

    def replayed(_: str) -> dict[str, str]:
        return {"identity": service.fingerprint, "signature": sign_identity(service.identity, "0" * 32)}

    def none(_: str) -> dict[str, str]:
        return {"identity": service.fingerprint}

    for prove, match in (
        (own, "IS NOT THE ONE THAT WAS PINNED"),
        (pinned_name, "does not hold the key of the identity"),
        (replayed, "does not hold the key of the identity"),
        (none, "no valid proof of its identity"),
    ):
        service.prove = prove
        refused(small, client, match=match)
        with pytest.raises(EncryptionError, match=match):
            Client.keygen(tmp_path / "keys", service.url, token=TOKEN, fingerprint=service.fingerprint)
    assert service.seen == []
    assert len(service.greetings) == 8 and not any("authorization" in headers for headers in service.greetings)


def test_marks_that_changed_before_the_answer_are_those_that_are_shown(small, service, client) -> None:
    client.enrol()

    def change(route, body, honest):
        if route == "describe":
            service.marks = "withdrawn"
        return honest

    service.lie = change
    diagnosis = client.diagnose(small.image)
    assert diagnosis.marks == "withdrawn"


def test_an_answer_under_a_description_that_nobody_gave_is_refused(small, service, client) -> None:
    client.enrol()

    def swap(body, honest):
        answer = decode(Answer, honest.body).model_copy(update={"description": "cd" * 32})
        return service.signed_by(service.identity, Answer, encode(answer))

    service.lie = about("predict", swap)
    refused(small, client, match="under another description")
