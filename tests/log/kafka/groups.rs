//! Members of a group.
