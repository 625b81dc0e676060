"""The bundled data; see ATTRIBUTION.md beside this file."""
