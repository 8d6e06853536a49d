/* Loaded before the C library when instructions are counted: hash tables take their keys from getrandom(2), and other
   keys are another way through the table. Needs no header, so that a compiler without a C library's will do. */
long getrandom(char *bytes, unsigned long length, unsigned int flags)
{
    for (unsigned long i = 0; i < length; i++)
        bytes[i] = (char)(i * 37 + flags + 1);
    return (long)length;
}
