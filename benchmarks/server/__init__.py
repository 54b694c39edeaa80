"""What previews cost and deliver in a real ComfyUI, started by its own main.py."""
