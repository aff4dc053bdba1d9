"""Credentials belong to the environment, never to a path or URI, which is written to configs, logs and reports."""

import re

from kd_ray.errors import ConfigError

_OF_USER = r"(?:s3|gs|gcs)://[^/?@]*@|://[^@?\s]*:[^@\s]*@"
_OF_QUERY = r"[?&][^=&\s]*(?:key|secret|token|passw|sig|credential)[^=&\s]*=[^&\s]+"
_PATTERN = re.compile(f"{_OF_USER}|{_OF_QUERY}", re.IGNORECASE)


def check(where: str, key: str) -> str:
    """Return a path or URI that holds no credentials, else raise ConfigError, which does not repeat them."""
    if "://" in where and _PATTERN.search(where):
        raise ConfigError(
            f"{key}: must hold no credentials, since it is written to files and logs: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or what your store takes) in the environment, and name the bucket and path alone"
        )
    return where


def hidden(text: str) -> str:
    """Return a text with its credentials replaced."""
    return _PATTERN.sub("***", text)
