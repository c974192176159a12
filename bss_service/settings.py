"""Settings of the service: flags of `bss serve`, environment variables BSS_*, or a TOML file."""

import os
import re
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

TOKEN_PATTERN: Final = r"[!-~]{16,}"  # what a header can carry
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")
_ADDRESS: Final = re.compile(r"https?://([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://")
_NO_STORE: Final = re.compile(r"$|sqlite://(?!/)|[A-Za-z][\w+.-]+:(?!//)")  # neither a path nor a URL; C: is a drive


class _Environment(EnvSettingsSource):
    """The environment without Kubernetes' service links, which would pass for settings."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if not _SERVICE_LINK.match(str(value))}


class Settings(BaseSettings):
    """Flags come before the environment, the environment before the file `bss.toml` in the working directory."""

    model_config = SettingsConfigDict(env_prefix="BSS_", toml_file="bss.toml", extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8765  # 0: any free one, printed at the start
    store: str = "sqlite:///bss.sqlite"  # SQLAlchemy URL, of SQLite or PostgreSQL; the path of a file becomes one
    token: SecretStr | None = None  # one of scope admin, beside those in the store
    log_format: Literal["console", "json"] = "console"
    max_body_bytes: Annotated[int, Field(ge=1024)] = 256 * 2**20
    max_samples: Annotated[int, Field(ge=1)] = (
        50_000_000  # of one job; about 40 bytes each, and 12 a draw of the last two epochs
    )

    hosts: str | None = None  # names, separated by commas, by which it may be addressed, through a proxy perhaps
    max_memory: Annotated[int, Field(ge=2**20)] | None = None  # bytes of all jobs together; null: half of the machine's
    max_stored_bytes: Annotated[int, Field(ge=2**20)] = 64 * 2**30  # of one job's journal and plans in the store

    advertise: str | None = None  # URL by which the services that share its PostgreSQL store, and trainers, reach it
    term: Annotated[float, Field(ge=0.5, le=3600)] = 6.0  # seconds after which others may take over what it shares

    rate_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # requests a second of one client

    @field_validator("host")
    @classmethod
    def _host_without_brackets(cls, host: str) -> str:
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @field_validator("hosts")
    @classmethod
    def _hosts_are_names(cls, hosts: str | None) -> str | None:
        names = [] if hosts is None else [name.strip() for name in hosts.split(",")]
        wrong = [name for name in names if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError("must be names or addresses without ports, separated by commas")
        return hosts

    @field_validator("advertise")
    @classmethod
    def _advertise_is_an_address(cls, advertise: str | None) -> str | None:
        if advertise is not None and not _ADDRESS.fullmatch(advertise):
            raise ValueError("must be like http://10.0.0.7:8765, without a path, http or https")
        return advertise

    @field_validator("store")
    @classmethod
    def _store_is_a_url(cls, store: str) -> str:
        if _NO_STORE.match(store):
            raise ValueError("must be an SQLite file, like bss.sqlite, or a URL, like postgresql://user@host/database")
        return store if "://" in store else f"sqlite:///{store}"

    @model_validator(mode="after")
    def _token_is_hard_to_guess(self) -> Self:
        if self.token is not None and not re.fullmatch(TOKEN_PATTERN, self.token.get_secret_value()):
            raise ValueError("token must be at least 16 printable ASCII characters without spaces")
        return self

    @property
    def host_names(self) -> frozenset[str]:
        """What is set as `hosts`, and the name by which the others of its store send trainers here."""
        names = [] if self.hosts is None else self.hosts.split(",")
        if names and self.advertise is not None:
            names.append(urlsplit(self.advertise).hostname or "")
        return frozenset(name.strip().strip("[]").lower() for name in names if name.strip())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls), TomlConfigSettingsSource(settings_cls)


def service_links() -> dict[str, str]:
    """What a Kubernetes service called `bss` puts into the environment of each pod under the name of a setting."""
    names = [f"BSS_{name.upper()}" for name in Settings.model_fields]
    return {name: os.environ[name] for name in names if _SERVICE_LINK.match(os.environ.get(name, ""))}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
