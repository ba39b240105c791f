//! One tokenizer, as its `tokenizer.json` says, but for truncation and padding.

use std::path::Path;

use tokenizers::{PostProcessor, PostProcessorWrapper, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings};

use crate::domain::pipeline::text::Side;

/// A text as the model sees it: as many ids as token types.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tokens {
    /// Places in the vocabulary, special tokens included.
    pub(super) ids: Vec<u32>,
    /// 0, and 1 where a pair's second text is told apart.
    pub(super) type_ids: Vec<u32>,
}

/// Text → tokens; shared by all workers.
#[derive(Debug)]
pub(in super::super) struct Tokenizer {
    /// Without the step that puts special tokens around a text, which comes after truncation.
    words: tokenizers::Tokenizer,
    frame: Option<PostProcessorWrapper>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The library's message.
    pub(in super::super) fn load(file: &Path) -> Result<Self, String> {
        let mut words = tokenizers::Tokenizer::from_file(file).map_err(|e| e.to_string())?;
        let frame = words.get_post_processor().cloned();
        words.with_post_processor(None::<PostProcessorWrapper>).with_padding(None).with_truncation(None).map_err(|e| e.to_string())?;
        Ok(Self { words, frame })
    }

    /// The tokens of a text, or of a pair: at most `most`, special ones included. Of a pair the longer text loses tokens first.
    ///
    /// # Errors
    /// The library's message, for example when a vocabulary has no token for what it does not know.
    pub(super) fn encode(&self, text: &str, pair: Option<&str>, most: Option<usize>, cut_side: Side) -> Result<Tokens, String> {
        let words = |text: &str| self.words.encode_fast(text, false).map_err(|e| e.to_string());
        let (mut first, mut second) = (words(text)?, pair.map(words).transpose()?);
        if let Some(most) = most {
            let special = self.frame.as_ref().map_or(0, |frame| frame.added_tokens(second.is_some()));
            let direction = match cut_side {
                Side::Left => TruncationDirection::Left,
                Side::Right => TruncationDirection::Right,
            };
            let max_length = most.saturating_sub(special);
            let params = TruncationParams { direction, max_length, strategy: TruncationStrategy::LongestFirst, stride: 0 };
            (first, second) = truncate_encodings(first, second, &params).map_err(|e| e.to_string())?;
            // What was cut off is kept as further encodings, and those of a pair would be framed each with each.
            first.take_overflowing();
            second.as_mut().map(tokenizers::Encoding::take_overflowing);
        }
        let Some(frame) = &self.frame else {
            let mut tokens = Tokens { type_ids: vec![0; first.len()], ids: first.get_ids().to_vec() };
            if let Some(second) = second {
                tokens.type_ids.resize(first.len() + second.len(), 1);
                tokens.ids.extend_from_slice(second.get_ids());
            }
            return Ok(tokens);
        };
        let framed = frame.process(first, second, true).map_err(|e| e.to_string())?;
        Ok(Tokens { ids: framed.get_ids().to_vec(), type_ids: framed.get_type_ids().to_vec() })
    }
}
