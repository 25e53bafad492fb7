"""Picture files as they are: depth, colours and metadata kept, memory flat in their size."""
