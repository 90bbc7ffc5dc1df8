"""muybridge: image transformers become video recognisers."""

__version__ = "0.1.0.dev0"
