from tests.e2e.conftest import avatar, nginx, show

__all__ = ["avatar", "nginx", "show"]
