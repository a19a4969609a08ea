"""Pictures: whatever names one → pixels → the tensor that a network takes."""
