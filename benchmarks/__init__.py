"""What previews cost: SideStream and what people use today, interleaved in one process."""
