"""All settings of the server in one object: `SEGLENS_...` in the environment, options on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from seglens.serving.limits import MIB, Limits

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PORT = 8000
# In every container next to a service named "seglens", Kubernetes and Docker's links set SEGLENS_PORT to its address.
_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@*]+", re.IGNORECASE)


class Settings(BaseSettings):
    """The defaults are safe: for this machine only, with limits on everything, without fetching addresses."""

    model_config = SettingsConfigDict(env_prefix="SEGLENS_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every network, which needs a key.")
    port: int = Field(PORT, ge=0, le=65535, description="Port to listen on; 0 for a free one.")
    model: str = Field("embedded", description="Trained head: a folder, a hub id, or 'embedded'; not with 'backbone'.")
    backbone: str | None = Field(
        None, description="MLLM without a trained head, a folder or hub id: its own attention locates; needs 'decoder'."
    )
    decoder: str | None = Field(None, description="SAM or SAM 2 that draws the masks for 'backbone'.")
    heads: str | None = Field(
        None, description="Attention heads of 'backbone': a file from `seglens probe --heads`, or 'choose'."
    )
    device: str = Field(
        "auto", description="Where to compute: cpu, cuda, mps, ...; auto: a CUDA GPU, else Apple's mps, else the CPU."
    )
    dtype: str | None = Field(
        None, description="Number type of the MLLM: fp32, bf16, fp16 or auto; default fp32 on a CPU, else auto."
    )
    load_in: str | None = Field(None, description="Load the MLLM in 8bit or 4bit, with bitsandbytes.")
    as_is: bool = Field(
        False,
        description="Chat with pictures as they are, also if the MLLM crops long ones; default: padded to a square.",
    )
    presence_threshold: float | None = Field(
        None,
        description="Below this probability (0 to 1) a target counts as absent; default the head's own, mostly 0.5.",
    )
    mask_threshold: float | None = Field(
        None,
        description="Above this probability (0 to 1) a pixel is in the mask; default 0.5 (0.6 in LENS's own code).",
    )
    # every user of the machine can read a command line: the option takes only a file
    api_key: SecretStr | None = Field(None, description="Key that clients must send as 'Authorization: Bearer KEY'.")
    api_key_file: Path | None = Field(None, description="File with the key that clients must send.")

    cors_origins: str = Field(
        "", description="Origins whose web pages may send requests, separated by commas, as in https://a.org; '*': all."
    )
    docs: bool = Field(False, description="Serve a page about the API at /docs; browsers load its scripts from a CDN.")

    body_bytes: Count = Field(Limits.request_bytes, description="Most bytes of one request.")
    bodies_bytes: Count = Field(256 * MIB, description="Most bytes of all requests under way together.")
    image_bytes: Count = Field(Limits.image_bytes, description="Most bytes of one encoded image.")
    pixels: Count = Field(Limits.pixels, description="Most pixels of one image.")
    queries: Count = Field(Limits.queries, description="Most queries in one request.")
    question_characters: Count = Field(Limits.characters, description="Most characters of one question.")
    messages: Count = Field(64, description="Most messages of one chat.")
    chat_images: Count = Field(8, description="Most images of one chat.")
    allow_urls: bool = Field(False, description="Fetch images from public https addresses.")
    answer_tokens: Count = Field(256, description="Most tokens of one answer in words.")

    queue: Count = Field(256, description="Most questions that wait for the model; for more, the answer is 503.")
    queue_seconds: Seconds = Field(
        30.0, description="Most seconds of estimated work that wait for the model; for more, the answer is 503."
    )
    queue_pixels: Count = Field(
        256_000_000, description="Most pixels of pictures that wait for the model; for more, the answer is 503."
    )
    batch_questions: Count = Field(32, description="Most questions that run as one batch, about one image or several.")
    batch_pixels: Count = Field(64_000_000, description="Most pixels of the masks of one batch.")
    connections: Count = Field(256, description="Most requests under way; for more, the answer is 503.")

    request_seconds: Seconds = Field(60.0, description="Seconds until a request is given up (504).")
    body_seconds: Seconds = Field(20.0, description="Seconds in which a request must arrive (408).")
    idle_seconds: Seconds = Field(15.0, description="Seconds that a connection may be idle, or take to send a header.")
    shutdown_seconds: Seconds = Field(60.0, description="Seconds for accepted requests when the server stops.")

    image_ttl: Seconds = Field(600.0, description="Seconds that an open image stays after its last use.")
    images_bytes: Count = Field(
        1024 * MIB, description="Most bytes of all open images; the longest unused are dropped first."
    )

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_link(cls, value: Any) -> Any:
        """The address of a service is no port to listen on, and no user has set it."""
        return PORT if isinstance(value, str) and _LINK.fullmatch(value) else value

    @property
    def origins(self) -> list[str]:
        """Origins of web pages that may send requests. Raises ValueError for an invalid origin."""
        origins = [one.strip().rstrip("/") for one in self.cors_origins.split(",") if one.strip()]
        wrong = [one for one in origins if one != "*" and not _ORIGIN.fullmatch(one)]
        if wrong:
            raise ValueError(
                f"got {wrong[0]!r} for a CORS origin; need '*', or scheme and host as in https://a.org:8443"
            )
        return origins

    @property
    def model_name(self) -> str:
        """The name that clients use: of a folder only its last part, not where it is."""
        names = (self.model,) if self.backbone is None else (self.backbone, self.decoder or "")
        return " + ".join(Path(name).name if Path(name).is_dir() else name for name in names)

    @property
    def limits(self) -> Limits:
        """Of one request."""
        return Limits(self.body_bytes, self.image_bytes, self.pixels, self.queries, self.question_characters)

    def key(self) -> str | None:
        """The key that clients must send, or None. Raises ValueError when two are given, or the file is empty; OSError
        when the file cannot be read."""
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("got both an API key and a file with one; give one of them")
        if self.api_key is None and self.api_key_file is None:
            return None
        key = self.api_key.get_secret_value() if self.api_key else _only_line(self.api_key_file)
        if not key.strip() or not key.isascii():
            raise ValueError("the API key must be a word of ASCII letters and digits, such as `openssl rand -hex 32`")
        return key.strip()


def _only_line(path: Path | None) -> str:
    assert path is not None
    return path.read_text(encoding="utf-8-sig")
