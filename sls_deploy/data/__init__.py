"""Pictures: files, MATLAB's bicubic, and pairs of input and truth."""
