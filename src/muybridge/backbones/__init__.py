"""Image transformers and text towers: one open ViT, published weights and the names other libraries give them."""
