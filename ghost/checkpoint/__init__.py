"""Reading and writing model folders: families, configurations and tensors."""
