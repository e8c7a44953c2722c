"""No more than what the example needs. A real one keeps its secret key to itself."""

import os
from urllib.parse import parse_qsl, unquote, urlsplit

_database = urlsplit(os.environ["DATABASE_URL"])

SECRET_KEY = os.environ.get("SECRET_KEY", "for the example alone")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["messages"]
# No session and no cookie, so nothing that another site could use in a visitor's name.
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "urls"
USE_TZ, TIME_ZONE = True, "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.path.lstrip("/"),
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "HOST": _database.hostname or "",
        "PORT": _database.port or "",
        # sslmode, sslrootcert and the like.
        "OPTIONS": dict(parse_qsl(_database.query)),
    }
}

AMQP_URL = os.environ.get("AMQP_URL", "")
REDIS_URL = os.environ.get("REDIS_URL", "")
ROLLCALL_EXCHANGE = os.environ.get("ROLLCALL_EXCHANGE", "rollcall")
ROLLCALL_KEY_PREFIX = os.environ.get("ROLLCALL_KEY_PREFIX", "rollcall")
