//! Holds the test of which crate may stand on which; nothing else.
