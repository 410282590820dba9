"""The Flask edge: parse, call one service, shape the response."""
