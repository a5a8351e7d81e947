"""The local stack decides what runs on this machine for one state folder, and leaves nothing behind when stopped."""
