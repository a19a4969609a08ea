"""What a model is: layers that hold arrays and apply themselves through `Ops`."""
