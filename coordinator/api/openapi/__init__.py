"""The API described by itself: OpenAPI 3.1, made of the routes and of the classes that decode."""
