"""Where samples come from: folders, tables, packaged and downloaded data sets. One file a source."""
