"""Defaults of the command line that a site may set: flag > environment > file > built-in default.

Environment: KEELFS_<NAME>, for example KEELFS_CACHE_SIZE=50GiB. File: TOML, at $KEELFS_CONFIG, else
~/.config/keelfs/keelfs.toml, else /etc/keelfs/keelfs.toml; its keys are the names below.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from fuseclient.errors import ClientError
from fuseclient.tls import Access, TlsFiles


def config_file() -> Path | None:
    """The configuration file that counts, if there is one."""
    named = os.environ.get("KEELFS_CONFIG")
    if named:
        return Path(named)
    for candidate in (Path.home() / ".config/keelfs/keelfs.toml", Path("/etc/keelfs/keelfs.toml")):
        if candidate.is_file():
            return candidate
    return None


class Settings(BaseSettings):
    """Every value is text as on the command line (but for switches); the command that uses it parses it."""

    model_config = SettingsConfigDict(env_prefix="KEELFS_", extra="forbid")

    listen: str = "127.0.0.1:7420"
    admin: str = ""  # empty: the port after the one of `listen` or of the URL
    session_ttl: str = "60s"
    delete_delay: str = "30s"
    cache_dir: str = ""  # empty: /var/cache/keelfs for root, ~/.cache/keelfs for others
    cache_size: str = "10GiB"
    buffer_size: str = "300MiB"
    attr_cache: str = "1s"
    entry_cache: str = "1s"
    dir_cache: str = "0s"
    open_cache: str = "0s"
    squash: str = "none"
    driver: str = "kernel"
    tls_ca: str = ""  # PEM files: the cluster's authority, and what this client shows; without any, plain text
    tls_cert: str = ""
    tls_key: str = ""
    insecure: bool = False  # plain text to other machines
    log_level: str = "info"
    log_format: str = "console"

    def tls_files(self) -> TlsFiles | None:
        """Raises ClientError when the parts do not fit together."""
        return TlsFiles.given(self.tls_ca, self.tls_cert, self.tls_key)

    def access(self) -> Access:
        """How this client may talk to nodes. Raises ClientError when the files cannot be used."""
        files = self.tls_files()
        return Access(files.context() if files is not None else None, self.insecure)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = config_file()
        file = (TomlConfigSettingsSource(settings_cls, path),) if path is not None else ()
        return (init_settings, env_settings, *file)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The site's defaults, read once. Raises ClientError when the file or a variable is wrong."""
    path = config_file()
    if path is not None and not path.is_file():
        raise ClientError(f"KEELFS_CONFIG names {path}, which does not exist", exit_code=2)
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ClientError(f"the configuration is wrong ({path or 'environment'}): {wrong}", exit_code=2) from error
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise ClientError(f"{path} is not valid TOML: {error}", exit_code=2) from error
