"""What recipes share: configuration, data, training, run folders, tables and reports."""
