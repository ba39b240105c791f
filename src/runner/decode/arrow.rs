//! Arrow IPC → batches: the stream format, and the file format (Feather version 2), which holds a stream.
//!
//! In: an object's messages, one after the other. Out: a [`Decoder`] of the projected columns with the types of the object's schema;
//! `_position` is the row's number. See the [format](https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc).
//!
//! A file may be hostile: lengths are believed only where they fit the object and the limits, those inside compressed buffers included,
//! and a panic inside the Arrow library is caught and reported like any other fault of the file.

use std::{
    collections::{BTreeSet, HashMap},
    io::{BufReader, Read},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, RecordBatchOptions},
    buffer::{Buffer, MutableBuffer},
    datatypes::{Field, Schema, SchemaRef},
    error::ArrowError,
    ipc::{
        self, MessageHeader, MetadataVersion,
        convert::try_fb_to_schema,
        reader::{RecordBatchDecoder, read_dictionary},
    },
};

use super::{
    DecodeError, Decoded, Decoder, Projection, Request,
    caught::caught,
    text::{self, Input, RangeReader},
};
use crate::{
    domain::spec::InputCompression,
    runner::{
        batch::{Batch, Provenance},
        source::ObjectBytes,
    },
};

/// Begins a file, before two bytes of padding.
pub(super) const FILE_MAGIC: &[u8] = b"ARROW1";
/// Begins a message.
pub(super) const CONTINUATION: [u8; 4] = [0xFF; 4];
/// Begins a file of Feather version 1, which is another format.
const FEATHER_1: &[u8] = b"FEA1";

/// Most words of four bytes that may pad the start of a file.
const MOST_PADDING_WORDS: usize = 64;
/// Most bytes in the description of a message.
const MAX_METADATA_BYTES: u64 = 16 << 20;
/// Most bytes in a record batch, as stored and decompressed: it is held in memory while its rows are handed on.
const MAX_BATCH_BYTES: u64 = 512 << 20;
/// Most bytes in all dictionaries of an object together.
const MAX_DICTIONARY_BYTES: usize = 512 << 20;

/// Opens an Arrow IPC object.
pub(super) fn open(bytes: Arc<dyn ObjectBytes>, request: Request) -> Result<Box<dyn Decoder>, DecodeError> {
    let size = bytes.size();
    let unreadable = |error| text::read_error(error, &request.source, InputCompression::None, None);
    let (head, input) = text::peek(Box::new(RangeReader::within(bytes, 0..size)), 8).map_err(unreadable)?;
    let mut messages = Messages { input: BufReader::with_capacity(64 << 10, input), left: size, framed: false };
    let told = |fault| messages_fault(fault, &request, 0);
    if head.starts_with(FEATHER_1) {
        return Err(invalid(&request, 0, "this is Feather version 1; only version 2, Arrow IPC, is read".into()));
    }
    if head.starts_with(FILE_MAGIC) && head.len() == 8 {
        messages.skip_magic().map_err(told)?;
    }
    let first = messages.first().map_err(told)?.ok_or_else(|| invalid(&request, 0, "it holds no schema".into()))?;
    let schema = caught(|| first.schema()).map_err(|why| invalid(&request, 0, why))?;
    let (columns, projected) = project(&schema, &request.projection).map_err(|why| invalid(&request, 0, why))?;
    let dictionaries = HashMap::new();
    Ok(Box::new(ArrowDecoder { messages, request, schema: Arc::new(schema), columns, projected, dictionaries, current: None, position: 0 }))
}

struct ArrowDecoder {
    messages: Messages,
    request: Request,
    /// As the object has it.
    schema: SchemaRef,
    /// Places of the projected columns.
    columns: Vec<usize>,
    /// Their schema as batches carry it: without metadata, which would tell apart what is alike.
    projected: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Rows that were decoded and not yet handed on.
    current: Option<RecordBatch>,
    /// Number of the next row.
    position: u64,
}

impl Decoder for ArrowDecoder {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let step = self.step();
        if step.is_err() {
            self.current = None;
            self.messages = Messages { input: BufReader::new(Box::new(std::io::empty())), left: 0, framed: false };
        }
        step
    }
}

impl ArrowDecoder {
    fn step(&mut self) -> Result<Option<Decoded>, DecodeError> {
        loop {
            if let Some(rows) = self.current.take() {
                return Ok(Some(self.hand_on(rows)));
            }
            let message = self.messages.next().map_err(|fault| messages_fault(fault, &self.request, self.position))?;
            let Some(message) = message else { return Ok(None) };
            let decoded = self.decode(&message).map_err(|why| invalid(&self.request, self.position, why))?;
            self.current = decoded.filter(|rows| rows.num_rows() > 0);
        }
    }

    /// The rows of a record batch; none of a dictionary, which is kept.
    fn decode(&mut self, message: &Message) -> Result<Option<RecordBatch>, String> {
        let header = message.header()?;
        let version = header.version();
        match header.header_type() {
            MessageHeader::DictionaryBatch => {
                let dictionary = header.header_as_dictionary_batch().ok_or("a dictionary without a header")?;
                let data = dictionary.data().ok_or("a dictionary without data")?;
                check_sizes(&data, &message.body)?;
                caught(|| read_dictionary(&message.body, dictionary, &self.schema, &mut self.dictionaries, &version))?;
                let held: usize = self.dictionaries.values().map(|values| values.get_array_memory_size()).sum();
                if held > MAX_DICTIONARY_BYTES {
                    return Err(format!("its dictionaries take {held} bytes, over the limit of {MAX_DICTIONARY_BYTES}"));
                }
                Ok(None)
            }
            MessageHeader::RecordBatch => {
                let batch = header.header_as_record_batch().ok_or("a record batch without a header")?;
                check_sizes(&batch, &message.body)?;
                caught(|| self.rows(batch, &message.body, version)).map(Some)
            }
            other => Err(format!("a message of type {} stands among its record batches", other.variant_name().unwrap_or("unknown"))),
        }
    }

    fn rows(&self, batch: ipc::RecordBatch<'_>, body: &Buffer, version: MetadataVersion) -> Result<RecordBatch, ArrowError> {
        let decoder = RecordBatchDecoder::try_new(body, batch, self.schema.clone(), &self.dictionaries, &version)?;
        let rows = decoder.with_projection(Some(&self.columns)).read_record_batch()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(self.projected.clone(), rows.columns().to_vec(), &options)
    }

    /// As many rows as the request wants, or fewer where they are so large on average that fewer fill a batch.
    fn hand_on(&mut self, rows: RecordBatch) -> Decoded {
        let row_bytes = rows.get_array_memory_size() / rows.num_rows();
        let count = self.request.batch_rows.min(self.request.batch_bytes / row_bytes.max(1)).clamp(1, rows.num_rows());
        let columns = rows.slice(0, count);
        if count < rows.num_rows() {
            self.current = Some(rows.slice(count, rows.num_rows() - count));
        }
        let positions = self.position..self.position + count as u64;
        self.position = positions.end;
        let batch = Batch { provenance: Provenance::of(self.request.source.clone(), positions), columns };
        Decoded { batch: Some(batch), errors: Vec::new() }
    }
}

/// The messages of an object in their order.
struct Messages {
    input: BufReader<Input>,
    /// Bytes of the object that were not read yet.
    left: u64,
    /// Whether it is a file, which must end with a footer.
    framed: bool,
}

/// Why there is no next message.
enum MessageFault {
    Unreadable(std::io::Error),
    Invalid(String),
}

impl From<String> for MessageFault {
    fn from(why: String) -> Self {
        Self::Invalid(why)
    }
}

impl Messages {
    fn skip_magic(&mut self) -> Result<(), MessageFault> {
        self.framed = true;
        self.exactly::<8>().map(drop)
    }

    /// The first message. Before that of a file some writers pad, with zeros, to more than the eight bytes that are required.
    fn first(&mut self) -> Result<Option<Message>, MessageFault> {
        for _ in 0..MOST_PADDING_WORDS {
            let message = self.next()?;
            if message.is_some() || !self.framed {
                return Ok(message);
            }
        }
        Ok(None)
    }

    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], MessageFault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Lengths are checked before memory is taken for them, by the caller, and here once more.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), MessageFault> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(MessageFault::Invalid("it is cut short".into()));
        };
        self.input.read_exact(bytes).map_err(MessageFault::Unreadable)?;
        self.left = left;
        Ok(())
    }

    /// The next message; none at the end.
    fn next(&mut self) -> Result<Option<Message>, MessageFault> {
        if self.left == 0 {
            return match self.framed {
                true => Err("the file ends without its footer; is it cut short?".to_owned().into()),
                false => Ok(None),
            };
        }
        let mut length = self.exactly::<4>()?;
        // Before version 0.15 a message began with its length.
        if length == CONTINUATION {
            length = self.exactly::<4>()?;
        }
        let length = i32::from_le_bytes(length);
        if length == 0 {
            return Ok(None);
        }
        let length = u64::try_from(length).ok().filter(|length| *length <= self.left.min(MAX_METADATA_BYTES));
        let Some(length) = length else {
            return Err("a message claims more bytes than the object has, or than the limit; is it cut short, or of another format?"
                .to_owned()
                .into());
        };
        let mut metadata = vec![0; length as usize];
        self.fill(&mut metadata)?;
        let claimed = caught(|| ipc::root_as_message(&metadata).map(|message| message.bodyLength()))?;
        let body_length = u64::try_from(claimed).ok().filter(|length| *length <= self.left);
        let Some(body_length) = body_length else {
            return Err(format!("a message claims {claimed} bytes, of which the object has {}; is it cut short?", self.left).into());
        };
        if body_length > MAX_BATCH_BYTES {
            return Err(format!("a record batch takes {body_length} bytes, over the limit of {MAX_BATCH_BYTES}; write smaller ones").into());
        }
        let mut body = MutableBuffer::from_len_zeroed(body_length as usize);
        self.fill(&mut body)?;
        Ok(Some(Message { metadata, body: body.into() }))
    }
}

/// One message: its description, a flat buffer, and its data.
struct Message {
    metadata: Vec<u8>,
    body: Buffer,
}

impl Message {
    fn header(&self) -> Result<ipc::Message<'_>, String> {
        caught(|| ipc::root_as_message(&self.metadata))
    }

    fn schema(&self) -> Result<Schema, String> {
        let message = self.header()?;
        let schema = message.header_as_schema().ok_or("its first message is no schema")?;
        try_fb_to_schema(schema).map_err(|error| error.to_string())
    }
}

/// Whether the buffers of a batch lie in its body, and neither they nor the number of its rows grow beyond the limits.
fn check_sizes(batch: &ipc::RecordBatch<'_>, body: &[u8]) -> Result<(), String> {
    let compressed = batch.compression().is_some();
    let mut total = 0_u64;
    for (index, buffer) in batch.buffers().into_iter().flatten().enumerate() {
        let place = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        let bytes = place.and_then(|(start, length)| body.get(start..start.checked_add(length)?));
        let bytes = bytes.ok_or_else(|| format!("buffer {index} lies outside the {} bytes of its record batch", body.len()))?;
        let claimed = match bytes.first_chunk::<8>() {
            Some(prefix) if compressed => match i64::from_le_bytes(*prefix) {
                // The mark of a buffer that was not worth compressing.
                -1 => bytes.len() as u64,
                claimed => u64::try_from(claimed).map_err(|_| format!("buffer {index} claims {claimed} bytes"))?,
            },
            _ => bytes.len() as u64,
        };
        total = total.saturating_add(claimed);
    }
    if total > MAX_BATCH_BYTES {
        return Err(format!("a record batch claims {total} bytes decompressed, over the limit of {MAX_BATCH_BYTES}; write smaller ones"));
    }
    // Nothing but columns without any data take less than a bit for a row.
    let rows = batch.length();
    if u64::try_from(rows).ok().is_none_or(|rows| rows > total.saturating_mul(8)) {
        return Err(format!("a record batch claims {rows} rows in {total} bytes"));
    }
    Ok(())
}

/// Places of the wanted columns, and their schema.
fn project(schema: &Schema, projection: &Projection) -> Result<(Vec<usize>, SchemaRef), String> {
    let mut seen = BTreeSet::new();
    let (mut places, mut fields) = (Vec::new(), Vec::new());
    for (place, field) in schema.fields().iter().enumerate() {
        if let Projection::Only(names) = projection
            && !names.contains(field.name())
        {
            continue;
        }
        if !seen.insert(field.name()) {
            return Err(format!("it has column {:?} twice", field.name()));
        }
        places.push(place);
        fields.push(Field::new(field.name(), field.data_type().clone(), field.is_nullable()));
    }
    Ok((places, Arc::new(Schema::new(fields))))
}

fn messages_fault(fault: MessageFault, request: &Request, position: u64) -> DecodeError {
    match fault {
        MessageFault::Unreadable(error) => text::read_error(error, &request.source, InputCompression::None, Some(position)),
        MessageFault::Invalid(why) => invalid(request, position, why),
    }
}

fn invalid(request: &Request, position: u64, why: String) -> DecodeError {
    // Before the first row nothing is known of any.
    let position = (position > 0).then_some(position);
    DecodeError::Corrupt { source_name: request.source.clone(), code: "invalid_arrow", detail: why, position }
}
