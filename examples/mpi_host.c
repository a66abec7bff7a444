/* A simulation in C that calls MPI_Init, and of whose ranks some train in Python. Build and run:
 *
 *   mpicc examples/mpi_host.c -o mpi_host $(python3-config --includes --ldflags --embed)
 *   PYTHONPATH=examples:$(python -c 'import sys; print(":".join(sys.path))') mpiexec -n 4 ./mpi_host
 */
#include <Python.h>
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int rank;
    double loss = 0.0, worst = 0.0;
    MPI_Comm trainers;

    MPI_Init(&argc, &argv); /* takes calls from this thread only, which distgrad sees */
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank == 0 ? MPI_UNDEFINED : 0, rank, &trainers); /* rank 0 simulates */
    if (trainers != MPI_COMM_NULL) {
        Py_Initialize();
        PyObject *module = PyImport_ImportModule("mpi_host");
        PyObject *result = module ? PyObject_CallMethod(module, "train", "i", MPI_Comm_c2f(trainers)) : NULL;
        if (result == NULL) {
            PyErr_Print();
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
        loss = PyFloat_AsDouble(result);
        Py_Finalize(); /* frees distgrad's duplicates of the communicator */
        MPI_Comm_free(&trainers);
    }
    MPI_Reduce(&loss, &worst, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("loss after training: %.4f\n", worst);
    return MPI_Finalize();
}
