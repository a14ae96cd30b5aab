"""What any hypervisor knows: registers and memory as protocols, outcomes, records, virtual time, what the CPU tells."""
