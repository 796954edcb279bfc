"""All that can be set of the server, in one object: `SEGLENS_...` in the environment, options on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from seglens.serving.uploads import UploadLimits

MIB = 2**20
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PORT = 8000
# In every container beside a service named "seglens", Kubernetes and Docker's links set SEGLENS_PORT to its address.
_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@*]+", re.IGNORECASE)


class Settings(BaseSettings):
    """Safe as it stands: this machine only, everything bounded, no addresses fetched."""

    model_config = SettingsConfigDict(env_prefix="SEGLENS_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every network, then with a key.")
    port: int = Field(PORT, ge=0, le=65535, description="Port to listen on; 0 for a free one.")
    model: str = Field("embedded", description="A head folder, a hub id, or 'embedded'.")
    backbone: str | None = Field(
        None, description="An MLLM whose own attention says where to look, in place of 'model'; with 'decoder'."
    )
    decoder: str | None = Field(None, description="The SAM or SAM 2 that draws for 'backbone'.")
    heads: str | None = Field(
        None, description="Attention heads of 'backbone': a file of `seglens probe --heads`, or 'choose'."
    )
    device: str = Field("auto", description="auto (a CUDA GPU, Apple's mps, or else the CPU), cpu, cuda, mps, ...")
    dtype: str | None = Field(
        None, description="Of the MLLM: fp32, bf16, fp16 or auto; default fp32 on a CPU, else auto."
    )
    load_in: str | None = Field(None, description="Load the MLLM in '8bit' or '4bit', by bitsandbytes.")
    as_is: bool = Field(False, description="Chat shows pictures as they came, even to a processor that crops.")
    presence_threshold: float | None = Field(
        None, description="Probability below which nothing is found; default the head's own, mostly 0.5."
    )
    mask_threshold: float | None = Field(
        None, description="Probability above which a pixel is in the mask (0.5; LENS's own code: 0.6)."
    )
    # a key on a command line is seen by every user of the machine: an option takes only a file
    api_key: SecretStr | None = Field(None, description="Ask for it as 'Authorization: Bearer KEY'.")
    api_key_file: Path | None = Field(None, description="A file that holds the key to ask for.")

    cors_origins: str = Field(
        "", description="Origins whose web pages may ask, separated by commas, as in https://a.org; '*' for all."
    )
    docs: bool = Field(False, description="A page about the API at /docs; a browser fetches its scripts from a CDN.")

    body_bytes: Count = Field(32 * MIB, description="Bytes of one request.")
    bodies_bytes: Count = Field(256 * MIB, description="Bytes of all requests under way together.")
    image_bytes: Count = Field(UploadLimits.bytes, description="Bytes of one encoded image.")
    pixels: Count = Field(UploadLimits.pixels, description="Pixels of one image.")
    queries: Count = Field(32, description="Queries in one request.")
    question_letters: Count = Field(2000, description="Letters of one question.")
    messages: Count = Field(64, description="Messages of one chat.")
    chat_images: Count = Field(8, description="Images of one chat.")
    allow_urls: bool = Field(False, description="Fetch images from public https addresses.")
    answer_tokens: Count = Field(256, description="Tokens of one spoken answer.")

    queue: Count = Field(256, description="Questions that may wait for the model; beyond them 503.")
    together: Count = Field(32, description="Questions about one image that run as one batch.")
    together_pixels: Count = Field(64_000_000, description="Pixels of the masks of one batch.")
    connections: Count = Field(256, description="Requests under way; beyond them 503.")

    request_seconds: Seconds = Field(60.0, description="Until a request is given up: 504.")
    body_seconds: Seconds = Field(20.0, description="Until a request must have arrived: 408.")
    idle_seconds: Seconds = Field(15.0, description="A connection may be silent, or dribble at a header.")
    shutdown_seconds: Seconds = Field(60.0, description="For accepted work, once the server was told to stop.")

    image_ttl: Seconds = Field(600.0, description="Seconds that an open image is kept after its last use.")
    images_bytes: Count = Field(1024 * MIB, description="Bytes of all open images; the longest unused go first.")

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_link(cls, value: Any) -> Any:
        """The address of a service is no port to listen on, and nobody asked for it."""
        return PORT if isinstance(value, str) and _LINK.fullmatch(value) else value

    @property
    def origins(self) -> list[str]:
        """Of pages that may ask. Raises ValueError for what is no origin."""
        origins = [one.strip().rstrip("/") for one in self.cors_origins.split(",") if one.strip()]
        wrong = [one for one in origins if one != "*" and not _ORIGIN.fullmatch(one)]
        if wrong:
            raise ValueError(
                f"got {wrong[0]!r} for a CORS origin; need '*', or scheme and host as in https://a.org:8443"
            )
        return origins

    @property
    def model_name(self) -> str:
        """As clients call it. Where a folder lies is nobody's business."""
        names = (self.model,) if self.backbone is None else (self.backbone, self.decoder or "")
        return " + ".join(Path(name).name if Path(name).is_dir() else name for name in names)

    @property
    def limits(self) -> UploadLimits:
        """Of one image."""
        return UploadLimits(bytes=self.image_bytes, pixels=self.pixels)

    def key(self) -> str | None:
        """The key to ask for, or None. Raises ValueError when there are two, or the file's is empty; OSError when the
        file cannot be read."""
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
