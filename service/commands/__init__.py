"""The `tritserve` command."""
