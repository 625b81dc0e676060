"""The backend switch: one module a backend, and the protocol they all meet."""
