"""Models on the Hugging Face hub, through `huggingface_hub`: fetched by name, published with a card.

    muybridge.load("org/name")                  # or "org/name@v1", a branch, tag or commit
    recogniser.save_pretrained("folder")
    recogniser.push_to_hub("org/name", private=True)

One file is read of a model, `model.safetensors`: nothing that is fetched is run.
"""
