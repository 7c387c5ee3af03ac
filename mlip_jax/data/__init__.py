"""From files to padded batches of graphs with labels."""
