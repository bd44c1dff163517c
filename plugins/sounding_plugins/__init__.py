"""The bundled analyses; one file each."""
