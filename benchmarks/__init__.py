"""What previews cost: SideStream beside what people use today, in one process, interleaved."""
