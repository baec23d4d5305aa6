//! Do graphs answer as ONNX Runtime answers them? Its figures are written down beside each question.

mod encode;
mod graph;
mod linear;
mod shape;
mod tree;
