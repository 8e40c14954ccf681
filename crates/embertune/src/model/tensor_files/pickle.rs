//! The pickle of a PyTorch `state_dict`, read without executing anything.
//!
//! A pickle is a program for a small stack machine; what makes it dangerous is that it may call any Python function. Here
//! the machine knows the instructions and the functions by which `torch.save` describes a dictionary of tensors, computes
//! with plain values only, and refuses everything else by its name. Memory stays in proportion to the length of the pickle:
//! values lie in one list and refer to each other by index, so that even a hostile pickle neither copies nor nests them.
//!
//! In: the bytes. Out: names, and where each tensor lies in which storage. Nothing is said about the storages' own sizes.
//! Source: CPython's `pickletools.py`; `torch/_utils.py` and `torch/serialization.py` for the functions.

use std::collections::HashMap;

use safetensors::Dtype;

/// A tensor of the dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Where its values are.
    pub storage: Storage,
    /// Its first element in the storage.
    pub offset: u64,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Elements of the storage from one index to the next, for each dimension.
    pub strides: Vec<u64>,
}

/// A list of values that tensors share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Name of its file in the archive, in the folder `data`.
    pub key: String,
    /// Type of the values.
    pub dtype: Dtype,
    /// Number of values.
    pub len: u64,
}

/// The tensors of a pickled `state_dict`, in its order.
///
/// # Errors
/// What is wrong with the pickle, or what it asks for that no `state_dict` needs.
pub fn state_dict(pickle: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let mut machine = Machine::default();
    let top = machine.run(&mut Reader { bytes: pickle, at: 0 })?;
    let Value::Dict(items) = &machine.values[top] else {
        return Err(format!("it holds {}, not a dictionary of tensors", machine.values[top].kind()));
    };
    let mut tensors = Vec::with_capacity(items.len());
    for &(key, value) in items {
        match (&machine.values[key], &machine.values[value]) {
            (Value::Text(name), Value::Tensor(tensor)) => tensors.push((name.clone(), tensor.clone())),
            (Value::Text(name), other) => return Err(format!("`{name}` is {}, not a tensor", other.kind())),
            (other, _) => return Err(format!("a key of its dictionary is {}, not a name", other.kind())),
        }
    }
    Ok(tensors)
}

/// Index of a value.
type Id = usize;

enum Value {
    Nothing,
    Flag,
    Whole(i64),
    Text(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Function(Function),
    StorageType(Dtype),
    Storage(Storage),
    Tensor(Tensor),
}

/// The functions that a `state_dict` calls.
#[derive(Clone, Copy)]
enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Nothing => "None",
            Value::Flag => "a truth value",
            Value::Whole(_) => "a number",
            Value::Text(_) => "a text",
            Value::Tuple(_) => "a tuple",
            Value::Dict(_) => "a dictionary",
            Value::Function(_) | Value::StorageType(_) => "a function",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// What a name of Python stands for, of those that a `state_dict` may use.
fn known(module: &str, name: &str) -> Option<Value> {
    let dtype = match (module, name) {
        ("collections", "OrderedDict") => return Some(Value::Function(Function::OrderedDict)),
        ("torch._utils", "_rebuild_tensor_v2") => return Some(Value::Function(Function::RebuildTensor)),
        ("torch._utils", "_rebuild_parameter") => return Some(Value::Function(Function::RebuildParameter)),
        ("torch", "DoubleStorage") => Dtype::F64,
        ("torch", "FloatStorage") => Dtype::F32,
        ("torch", "HalfStorage") => Dtype::F16,
        ("torch", "BFloat16Storage") => Dtype::BF16,
        ("torch", "LongStorage") => Dtype::I64,
        ("torch", "IntStorage") => Dtype::I32,
        ("torch", "ShortStorage") => Dtype::I16,
        ("torch", "CharStorage") => Dtype::I8,
        ("torch", "ByteStorage") => Dtype::U8,
        ("torch", "BoolStorage") => Dtype::BOOL,
        _ => return None,
    };
    Some(Value::StorageType(dtype))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.at..].get(..len).ok_or("it is cut off")?;
        self.at += len;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.first_chunk().copied().ok_or_else(|| "it is cut off".to_owned())
    }

    /// Up to the next end of line, which is taken, too.
    fn line(&mut self) -> Result<&'a str, String> {
        let len = self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or("it is cut off")?;
        let line = self.take(len + 1)?;
        str::from_utf8(&line[..len]).map_err(|_| "a name in it is not valid UTF-8".to_owned())
    }
}

#[derive(Default)]
struct Machine {
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at which groups of values begin.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine {
    /// Returns the value that the pickle describes. The letters are the codes of the instructions.
    fn run(&mut self, reader: &mut Reader<'_>) -> Result<Id, String> {
        loop {
            let at = reader.at;
            match reader.byte()? {
                b'.' => return self.pop(),
                0x80 => match reader.byte()? {
                    2 => {}
                    other => {
                        return Err(format!("it follows protocol {other}; supported is 2, the one of `torch.save`"));
                    }
                },
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Value::Nothing),
                0x88 | 0x89 => self.push(Value::Flag),
                b'K' => {
                    let value = reader.byte()?;
                    self.push(Value::Whole(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(reader.array()?);
                    self.push(Value::Whole(value.into()));
                }
                b'J' => {
                    let value = i32::from_le_bytes(reader.array()?);
                    self.push(Value::Whole(value.into()));
                }
                0x8A => {
                    let len = reader.byte()?;
                    let value = whole(reader.take(len.into())?)?;
                    self.push(Value::Whole(value));
                }
                b'X' => {
                    let len = u32::from_le_bytes(reader.array()?);
                    let text =
                        str::from_utf8(reader.take(len as usize)?).map_err(|_| "a text in it is not valid UTF-8")?;
                    self.push(Value::Text(text.to_owned()));
                }
                b')' => self.push(Value::Tuple(Vec::new())),
                b't' => {
                    let items = self.pop_group()?;
                    self.push(Value::Tuple(items));
                }
                code @ 0x85..=0x87 => {
                    let items = self.pop_last(usize::from(code - 0x84))?;
                    self.push(Value::Tuple(items));
                }
                b'}' => self.push(Value::Dict(Vec::new())),
                b's' => {
                    let items = self.pop_last(2)?;
                    self.set_items(&items)?;
                }
                b'u' => {
                    let items = self.pop_group()?;
                    self.set_items(&items)?;
                }
                b'q' => {
                    let key = reader.byte()?;
                    self.memo.insert(key.into(), self.top()?);
                }
                b'r' => {
                    let key = u32::from_le_bytes(reader.array()?);
                    self.memo.insert(key, self.top()?);
                }
                b'h' => {
                    let key = reader.byte()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(reader.array()?);
                    self.recall(key)?;
                }
                b'c' => {
                    let (module, name) = (reader.line()?, reader.line()?);
                    let value = known(module, name).ok_or_else(|| {
                        format!("it asks for `{module}.{name}`, which no dictionary of tensors needs; nothing of it was executed")
                    })?;
                    self.push(value);
                }
                b'Q' => {
                    let storage = self.storage()?;
                    self.push(Value::Storage(storage));
                }
                b'R' => self.call()?,
                b'b' => {
                    // Attributes of the dictionary: `_metadata`, the versions of the modules that it comes from.
                    self.pop()?;
                    let top = self.top()?;
                    if !matches!(self.values[top], Value::Dict(_)) {
                        return Err(format!("it sets attributes of {}", self.values[top].kind()));
                    }
                }
                code => {
                    return Err(format!(
                        "instruction 0x{code:02x} at byte {at} is none that a dictionary of tensors needs"
                    ));
                }
            }
        }
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        Ok(self.pop_last(1)?[0])
    }

    /// The topmost `n` values of the current group.
    fn pop_last(&mut self, n: usize) -> Result<Vec<Id>, String> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(start) if start >= bottom => Ok(self.stack.split_off(start)),
            _ => Err("it takes values that are not there".to_owned()),
        }
    }

    fn pop_group(&mut self) -> Result<Vec<Id>, String> {
        let start = self.marks.pop().ok_or("it takes values that are not there")?;
        Ok(self.stack.split_off(start))
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "it takes values that are not there".to_owned())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id = self.memo.get(&key).ok_or("it remembers a value that was never there")?;
        self.stack.push(*id);
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.values[top] {
            Value::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks().0.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            other => Err(format!("it puts {} items into {}", items.len(), other.kind())),
        }
    }

    /// A reference to another file of the archive: `("storage", type, key, device, length)`.
    fn storage(&mut self) -> Result<Storage, String> {
        let id = self.pop()?;
        if let Value::Tuple(fields) = &self.values[id]
            && let [tag, dtype, key, _device, len] = fields[..]
            && let Value::Text(tag) = &self.values[tag]
            && let (Value::StorageType(dtype), Value::Text(key)) = (&self.values[dtype], &self.values[key])
            && let Some(len) = self.size(len)
            && tag == "storage"
        {
            return Ok(Storage { key: key.clone(), dtype: *dtype, len });
        }
        Err("it refers to something that is no storage".to_owned())
    }

    fn call(&mut self) -> Result<(), String> {
        let [function, arguments] = self.pop_last(2)?[..] else { return Err("it calls nothing".to_owned()) };
        let (Value::Function(function), Value::Tuple(arguments)) = (&self.values[function], &self.values[arguments])
        else {
            return Err(format!("it calls {}", self.values[function].kind()));
        };
        match (function, &arguments[..]) {
            (Function::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            // The others are whether it wants a gradient, its hooks and extras, which are nothing to compute with.
            (Function::RebuildTensor, &[storage, offset, shape, strides, _, _]) => {
                let tensor = self.tensor(storage, offset, shape, strides);
                self.push(Value::Tensor(tensor.ok_or("it describes a tensor in a way that is not known")?));
            }
            (Function::RebuildParameter, &[tensor, _, _]) => self.stack.push(tensor),
            _ => return Err("it calls a function with arguments that are not known".to_owned()),
        }
        Ok(())
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Option<Tensor> {
        let Value::Storage(storage) = &self.values[storage] else { return None };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        let fits = shape.len() == strides.len();
        fits.then_some(Tensor { storage: storage.clone(), offset: self.size(offset)?, shape, strides })
    }

    fn sizes(&self, id: Id) -> Option<Vec<u64>> {
        match &self.values[id] {
            Value::Tuple(items) => items.iter().map(|&item| self.size(item)).collect(),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<u64> {
        match self.values[id] {
            Value::Whole(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

/// A number in two's complement, the lowest byte first.
fn whole(bytes: &[u8]) -> Result<i64, String> {
    let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xFF } else { 0 };
    let mut wide = [sign; 8];
    let room = wide.get_mut(..bytes.len()).ok_or("a number in it is too large")?;
    room.copy_from_slice(bytes);
    Ok(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests;
