"""One run: opened, layer by layer, exported, evaluated, published."""
