"""Models: layers that hold arrays and apply themselves through `Ops`, and their families."""
