"""The network, in Keras; `config` and `timm_names` are plain data and import no Keras."""
