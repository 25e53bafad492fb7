"""The paper's adaptive inference: which network a tile is worth."""
