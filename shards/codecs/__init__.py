"""How clips and labels become the bytes of tar members, and back."""
