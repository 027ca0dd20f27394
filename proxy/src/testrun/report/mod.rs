//! A report as text for a terminal, JUnit XML, Markdown, and one HTML page.
//!
//! Input: `Report`. Output: text. Must not: bring a value into a form of text in which it means something else.

pub mod text;
pub mod junit;
pub mod markdown;
pub mod html;
