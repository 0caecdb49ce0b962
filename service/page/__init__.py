"""The page at `/`, where a browser shows what is served and embeds files."""
