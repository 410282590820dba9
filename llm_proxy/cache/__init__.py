"""The response cache: RFC 9111 for a shared cache whose tenants never see each other's responses (docs/cache.md)."""
