//! Do other parsers agree?
