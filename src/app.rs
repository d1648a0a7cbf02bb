//! Wires the subsystems together.
