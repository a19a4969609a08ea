"""A GPU that is none: TensorRT's module and CUDA's, of as much as our session uses.

Its memory is the host's, its stream runs what it is given at once or notes it while a graph is
captured, and its engine is ONNX Runtime on the graph that lies beside the real one. So what the
session copies, where to, and in which order decides what comes out. Names and numbers of arguments
are those of the real modules, which `test_tensorrt_session` checks.
"""

import ctypes
import importlib.machinery
import types
from enum import Enum, IntEnum

import numpy as np
import onnxruntime

from levit.runtime.gpus import Gpu

ADA = Gpu(
    name="NVIDIA Imaginary",
    compute_capability=(8, 9),
    memory_bytes=2**34,
    cuda_version=(13, 0),
    driver_version=None,
)


class Status(IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorLaunchFailure = 719  # noqa: N815


class Kind(IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


class Mode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1  # noqa: N815


class Stream:
    """Runs what it is given; while capturing it notes it instead."""

    def __init__(self):
        self.noted = None

    def __int__(self):
        return id(self)

    def take(self, work):
        if self.noted is None:
            work()
        else:
            self.noted.append(work)


class FakeCuda(types.ModuleType):
    """``cuda.bindings.runtime``.

    Attributes:
        fail: name of a call → the status that it answers.
        memory: addresses that have not been given back, with what they stand for.
        launches: CUDA graphs launched.
    """

    cudaError_t = Status  # noqa: N815
    cudaMemcpyKind = Kind  # noqa: N815
    cudaStreamCaptureMode = Mode  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.fail = {}
        self.memory = {}
        self.handles = []
        self.launches = 0

    def _status(self, name):
        return self.fail.get(name, Status.cudaSuccess)

    def _allocate(self, name, size):
        if status := self._status(name):
            return status, None
        buffer = ctypes.create_string_buffer(b"\xff" * size, size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return Status.cudaSuccess, ctypes.addressof(buffer)

    def _release(self, name, address):
        if name not in self.fail:
            del self.memory[address]
        return (self._status(name),)

    def cudaGetErrorString(self, error):  # noqa: N802
        return Status.cudaSuccess, error.name.encode()

    def cudaMalloc(self, size):  # noqa: N802
        return self._allocate("cudaMalloc", size)

    def cudaHostAlloc(self, size, flags):  # noqa: N802
        return self._allocate("cudaHostAlloc", size)

    def cudaFree(self, devPtr):  # noqa: N802, N803
        return self._release("cudaFree", devPtr)

    def cudaFreeHost(self, ptr):  # noqa: N802
        return self._release("cudaFreeHost", ptr)

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        self.stream = Stream()
        self.handles.append(self.stream)
        return Status.cudaSuccess, self.stream

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self.handles.remove(stream)
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return (self._status("cudaStreamSynchronize"),)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):  # noqa: N802
        if status := self._status("cudaMemcpyAsync"):
            return (status,)
        stream.take(lambda: ctypes.memmove(dst, src, count))
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        stream.noted = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        graph, stream.noted = stream.noted, None
        self.handles.append(graph)
        return Status.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        if status := self._status("cudaGraphInstantiate"):
            return status, None
        executable = types.SimpleNamespace(works=list(graph))
        self.handles.append(executable)
        return Status.cudaSuccess, executable

    def cudaGraphDestroy(self, graph):  # noqa: N802
        self.handles = [handle for handle in self.handles if handle is not graph]
        return (Status.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec):  # noqa: N802, N803
        self.handles.remove(graphExec)
        return (Status.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec, stream):  # noqa: N802, N803
        self.launches += 1
        for work in graphExec.works:
            stream.take(work)
        return (Status.cudaSuccess,)


class DataType(Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class ILogger:
    ERROR = 1

    def __init__(self):
        pass


class IExecutionContext:
    def __init__(self, engine):
        self._engine = engine
        self._addresses = {}
        self._shape = None

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return "set_tensor_address" not in self._engine._fake.refuse

    def set_input_shape(self, name, shape):
        least, _, most = self._engine._profile
        self._shape = shape
        return least <= shape[0] <= most

    def execute_async_v3(self, stream_handle):
        fake = self._engine._fake
        assert stream_handle == int(fake.cuda.stream)
        fake.executions += 1
        if "execute_async_v3" in fake.refuse:
            return False
        fake.cuda.stream.take(self._execute)
        return True

    def is_stream_capturable(self, stream):
        return "is_stream_capturable" not in self._engine._fake.refuse

    def _execute(self):
        network = self._engine._network
        (source,) = network.get_inputs()
        dtype = np.uint8 if "uint8" in source.type else np.float32
        feed = _array(self._addresses[source.name], self._shape, dtype)
        names = [output.name for output in network.get_outputs()]
        for name, value in zip(names, network.run(names, {source.name: feed}), strict=True):
            _array(self._addresses[name], value.shape, np.float32)[...] = value


def _array(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return memory.view(dtype).reshape(shape)


class ICudaEngine:
    def __init__(self, fake):
        self._fake = fake
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self._network = onnxruntime.InferenceSession(
            str(fake.graph), settings, providers=["CPUExecutionProvider"]
        )
        self._tensors = [*self._network.get_inputs(), *self._network.get_outputs()]
        self._profile = fake.profile
        self.num_io_tensors = len(self._tensors)

    def _tensor(self, name):
        return next(tensor for tensor in self._tensors if tensor.name == name)

    def get_tensor_name(self, index):
        return self._tensors[index].name

    def get_tensor_dtype(self, name):
        return DataType.UINT8 if "uint8" in self._tensor(name).type else self._fake.dtype

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(n, str) else n for n in self._tensor(name).shape)

    def get_tensor_mode(self, name):
        inputs = {tensor.name for tensor in self._network.get_inputs()}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name, profile_index):
        rest = self.get_tensor_shape(name)[1:]
        return [(batch, *rest) for batch in self._profile]

    def create_execution_context(self):
        return None if "create_execution_context" in self._fake.refuse else IExecutionContext(self)


class FakeTensorrt(types.ModuleType):
    """``tensorrt_rtx_bindings``, with its CUDA.

    Args:
        graph: the ONNX file that its engines compute.
        profile: of its engines.

    Attributes:
        refuse: names of calls that answer None or False.
        dtype: of the engine's float tensors.
        host_code: what the last runtime was told.
    """

    DataType = DataType
    TensorIOMode = TensorIOMode
    ILogger = ILogger

    def __init__(self, name, graph, profile, version="1.7.1.116"):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__version__ = version
        self.cuda = FakeCuda()
        self.graph, self.profile = graph, profile
        self.refuse = set()
        self.dtype = DataType.FLOAT
        self.executions = 0
        self.host_code = None
        fake = self

        class Runtime:
            def __init__(self, logger):
                if "Runtime" in fake.refuse:
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                self._log = logger
                self.engine_host_code_allowed = False

            def deserialize_cuda_engine(self, serialized_engine):
                assert isinstance(serialized_engine, bytes)
                fake.host_code = self.engine_host_code_allowed
                if "deserialize_cuda_engine" in fake.refuse:
                    self._log.log(ILogger.ERROR, "Serialization assertion failed\nsomewhere")
                    return None
                return ICudaEngine(fake)

        self.Runtime = Runtime
        self.ICudaEngine = ICudaEngine
        self.IExecutionContext = IExecutionContext
