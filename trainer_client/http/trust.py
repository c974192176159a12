"""Internal: whose certificates are trusted, and what to do about one that is not."""

import logging
import os
import ssl
from pathlib import Path
from typing import Final

import httpx

log = logging.getLogger(__name__)

Verify = ssl.SSLContext | str | os.PathLike[str] | bool
_EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 10, 62, 64  # X509_V_ERR_… of OpenSSL, which Python has no names for
_TRUST: Final = (
    "name the file of the CA that signed it by SSL_CERT_FILE in the environment or SchedulerClient(verify=…)"
)
_NAME: Final = "let the url name a host that the certificate is for"
_REMEDIES: Final = {_EXPIRED: "have it renewed", _OTHER_NAME: _NAME, _OTHER_ADDRESS: _NAME}


def trust(url: httpx.URL, verify: Verify) -> ssl.SSLContext:
    """What a service at this URL has to prove. Raises ValueError where a file of CA certificates can't be read."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    if url.scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used, and trusts nobody; the system's takes 0.1 s to read
    if verify is True:
        return _of_environment()
    if verify is False:
        log.warning("verify is False: whoever answers at %s is taken for the scheduler and sent the token", url)
        return httpx.create_ssl_context(verify=False)
    return _of_file(verify)


def tls_error(failure: BaseException) -> ssl.SSLError | None:
    """What went wrong with TLS, if a call failed by that and not by the connection's end."""
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return None if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError) else cause


def is_expired(error: ssl.SSLError) -> bool:
    """Whether a certificate was good until some time ago."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code == _EXPIRED


def objection(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with a certificate, and what to set."""
    kind = "for another host" if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS) else "not trusted"
    return f"{kind}: {error.verify_message.rstrip('.')}; {_REMEDIES.get(error.verify_code, _TRUST)}"


def _of_environment() -> ssl.SSLContext:
    """The system's, or what SSL_CERT_FILE and SSL_CERT_DIR name; where a system has none, httpx's."""
    file = os.environ.get("SSL_CERT_FILE")
    if file and not Path(file).is_file():  # OpenSSL would leave it out without a word
        raise ValueError(f"SSL_CERT_FILE must be a file of CA certificates (PEM), got {file!r}")
    context = ssl.create_default_context()
    is_empty = not context.cert_store_stats()["x509_ca"] and ssl.get_default_verify_paths().capath is None
    return httpx.create_ssl_context(trust_env=False) if is_empty else context


def _of_file(file: str | os.PathLike[str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=os.fspath(file))
    except OSError as error:  # an ssl.SSLError too
        raise ValueError(f"verify must be a file of CA certificates (PEM), got {str(file)!r}: {error}") from None
