//! The one test binary of the library: what it must do, seen from outside. One module a subject.

mod tidy;
